//! The metric `watch_age_seconds`: how long ago the API server last sent something about each kind.

use std::fmt;

use portcullis_apiserver::watch::Contacts;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Reads the ages at each scrape. Without watches, there are no series.
#[derive(Debug)]
pub struct WatchAges(pub Contacts);

impl Collector for WatchAges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Time since the API server last sent something about this kind of objects";
        let unit = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor("watch_age", help, unit, MetricType::Gauge)?;
        self.0.ages().into_iter().try_for_each(|(kind, age)| {
            ConstGauge::new(age.as_secs_f64()).encode(family.encode_family(&[("kind", kind)])?)
        })
    }
}
