//! The state of the node for the probes and the metrics, computed at each request.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;

use crate::node::state::{State, Unenforced};
use crate::node::status::{Extent, Status};
use crate::serve::pulse::Pulse;

/// The status of the agent, for the report, the probes and the metrics.
#[derive(Clone, Debug)]
pub struct Signals {
    status: watch::Receiver<Status>,
    pulse: Pulse,
    unready_after: Duration,
}

impl Signals {
    /// The status of an agent with this `pulse`, which is stalled after `unready_after` without
    /// progress.
    #[must_use]
    pub fn new(status: watch::Receiver<Status>, pulse: Pulse, unready_after: Duration) -> Self {
        Self { status, pulse, unready_after }
    }

    /// The latest status, and whether the agent is stalled, which the agent cannot publish.
    #[must_use]
    pub fn latest(&self) -> Status {
        let stalled = self.pulse.alive(self.unready_after).err().map(Into::into);
        Status { stalled, ..self.status.borrow().clone() }
    }

    /// Waits until the agent publishes another status.
    ///
    /// # Errors
    /// When the agent has ended.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.status.changed().await
    }
}

impl Collector for Signals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.latest();
        let state = status.state().name();
        let unenforced: Vec<&str> = status.unenforced().iter().map(Unenforced::name).collect();
        let mut family = |name, help, label, names: &[&'static str], is: &dyn Fn(&str) -> bool| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            names.iter().try_for_each(|name| {
                let value = ConstGauge::new(i64::from(is(name)));
                value.encode(family.encode_family(&[(label, *name)])?)
            })
        };
        let help = "1 for the state that the node is in";
        family("node_state", help, "state", &State::NAMES, &|name| name == state)?;
        let (help, extent) =
            ("1 for where policies are enforced, by the flags", status.extent.name());
        family("node_enforcement", help, "namespaces", &Extent::NAMES, &|name| name == extent)?;
        let help = "1 for each part of the policies that is not enforced, in any state";
        family("node_degraded", help, "what", &Unenforced::NAMES, &|name| {
            unenforced.contains(&name)
        })
    }
}
