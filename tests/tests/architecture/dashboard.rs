//! The dashboard shows metrics that exist, with labels that exist.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use prometheus_client::encoding::text;
use serde_json::Value;

use crate::documents::{metrics, read, registries, words};

#[test]
fn every_panel_of_the_dashboard_shows_metrics_that_exist() -> Result<()> {
    let (mut known, mut shown) = (BTreeSet::new(), String::new());
    for registry in registries() {
        known.extend(metrics(&registry)?);
        text::encode(&mut shown, &registry)?;
    }
    let dashboard: Value = serde_json::from_str(&read("deploy/dashboard.json")?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let mut ids = BTreeSet::new();
    let mut queries = 0;
    for panel in panels {
        let title = panel["title"].as_str().context("no title")?;
        ensure!(ids.insert(panel["id"].as_u64()), "{title}: another panel has this id");
        let place = &panel["gridPos"];
        let end = place["x"].as_u64().zip(place["w"].as_u64()).context("no place")?;
        ensure!(end.0 + end.1 <= 24, "{title} is beyond the grid");
        for target in panel["targets"].as_array().context("no targets")? {
            let query = target["expr"].as_str().context("no query")?;
            queries += 1;
            let named = words(query, |letter| letter == '_');
            let named = named
                .into_iter()
                .filter(|word| word.starts_with("portcullis_") || word.starts_with("process_"));
            let mut count = 0;
            for name in named {
                count += 1;
                let name = name.strip_suffix("_bucket").unwrap_or(name);
                ensure!(known.contains(name), "{title}: there is no metric {name}");
            }
            ensure!(count > 0, "{title}: {query} shows no metric");
            for selector in query.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
                ensure!(shown.contains(selector), "{title}: no metric has {selector}");
            }
        }
    }
    ensure!(queries > 20, "only {queries} queries");
    Ok(())
}
