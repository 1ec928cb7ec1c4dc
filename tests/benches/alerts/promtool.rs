//! promtool, and the files that it tests rules with.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use portcullis_crds::manifest::Manifest;
use serde_json::json;

use crate::{Case, root};

/// The end of each test, in minutes: later than any `for` and any range of an alert.
pub(crate) const MINUTES: usize = 60;

pub(crate) struct Promtool(PathBuf);

impl Promtool {
    pub(crate) fn build() -> Result<Self> {
        let build = Command::new(root().join("tests/kube/program.sh")).arg("promtool").output()?;
        ensure!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
        let program = String::from_utf8(build.stdout)?;
        Ok(Self(program.lines().last().context("program.sh prints no path")?.into()))
    }

    fn run(&self, arguments: &[&str], file: &Path) -> Result<Output> {
        let mut command = Command::new(&self.0);
        command.args(arguments).arg(file).output().context("failed to start promtool")
    }

    /// The names of the alerts of a file that promtool accepts.
    pub(crate) fn alerts(&self, rules: &Path) -> Result<BTreeSet<String>> {
        let checked = self.run(&["check", "rules", "--lint=all", "--lint-fatal"], rules)?;
        let said = String::from_utf8_lossy(&checked.stderr);
        ensure!(checked.status.success(), "{}{said}", String::from_utf8_lossy(&checked.stdout));
        let manifest = Manifest::parse("alerts.yaml", &std::fs::read_to_string(rules)?);
        let groups = manifest.documents.first().context("no groups")?.value()["groups"].clone();
        let groups = groups.as_array().into_iter().flatten();
        let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
        Ok(rules.filter_map(|rule| Some(rule["alert"].as_str()?.to_owned())).collect())
    }

    /// Fails unless exactly the alerts of a case fire at some time.
    pub(crate) fn test(&self, rules: &Path, case: &Case) -> Result<()> {
        let series = case.series.iter();
        let series = series.map(|(name, values)| json!({"series": name, "values": values}));
        let firing = format!("last_over_time(ALERTS{{alertstate=\"firing\"}}[{MINUTES}m])");
        let alerts = case.alerts.iter();
        let alerts =
            alerts.map(|name| json!({"labels": format!("{{alertname={name:?}}}"), "value": 1}));
        let test = json!({
            "rule_files": [rules.canonicalize()?],
            "evaluation_interval": "1m",
            "tests": [{
                "interval": "1m",
                "input_series": series.collect::<Vec<_>>(),
                "promql_expr_test": [{
                    "expr": format!("group by (alertname) ({firing})"),
                    "eval_time": format!("{MINUTES}m"),
                    "exp_samples": alerts.collect::<Vec<_>>(),
                }],
            }],
        });
        let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
        // JSON is YAML.
        std::fs::write(file.path(), serde_json::to_string_pretty(&test)?)?;
        let tested = self.run(&["test", "rules"], file.path())?;
        let (out, error) =
            (String::from_utf8_lossy(&tested.stdout), String::from_utf8_lossy(&tested.stderr));
        ensure!(tested.status.success(), "{out}{error}");
        Ok(())
    }
}
