//! What the source sends, gathered until a test has seen what it waits for.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use policy_engine::model::Change;
use portcullis_apiserver::client::Access;
use portcullis_apiserver::watch::Contacts;
use portcullis_controller::watch::{Event, Needs, Source};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::{Instant, timeout_at};

/// Far more than anything takes on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_mins(1);
/// How often the source looks for a kind that the cluster lacks.
const MISSING_KIND_PERIOD: Duration = Duration::from_millis(200);
/// How long Nodes stay watched after the last policy that names nodes.
const NODES_KEPT: Duration = Duration::from_millis(500);

/// All that the source has sent.
pub(super) struct Seen {
    runtime: Runtime,
    events: Receiver<Event>,
    /// When the API server last sent something.
    pub(super) contacts: Contacts,
    /// The objects as they are now, by kind and name.
    pub(super) objects: BTreeMap<String, Change>,
    /// What is told of each origin now.
    pub(super) diagnostics: BTreeMap<String, Vec<String>>,
    /// Each batch: `+Pod shop/a` is there or changed, `-Pod shop/a` is gone.
    pub(super) batches: Vec<Vec<String>>,
    /// How many batches came before `Synced`.
    pub(super) synced_after: Option<usize>,
    /// Whether `SyncedInPart` came.
    pub(super) is_synced_in_part: bool,
}

impl Seen {
    /// Starts the source for the agent of node n1, with this kubeconfig.
    pub(super) fn start(kubeconfig: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sender, events) = channel(64);
        let access = Access { kubeconfig: Some(kubeconfig.into()), component: "node" };
        let needs = Needs::OfNode { name: "n1".to_owned(), nodes_kept: NODES_KEPT };
        let contacts = Contacts::default();
        Source::Kube.start(&access, needs, MISSING_KIND_PERIOD, &contacts, sender)?;
        Ok(Self {
            runtime,
            events,
            contacts,
            objects: BTreeMap::new(),
            diagnostics: BTreeMap::new(),
            batches: Vec::new(),
            synced_after: None,
            is_synced_in_part: false,
        })
    }

    pub(super) fn until_synced(&mut self) -> Result<()> {
        self.until("the first complete view", |seen| seen.synced_after.is_some())
    }

    /// Takes in events until `done`.
    pub(super) fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !done(self) {
            let events = &mut self.events;
            let event = self.runtime.block_on(async { timeout_at(deadline, events.recv()).await });
            let event = event.map_err(|_| {
                anyhow!("{what} was not seen; {:?}, {:?}", self.batches, self.diagnostics)
            })?;
            self.take(event.ok_or_else(|| anyhow!("the source ended before {what}"))?);
        }
        Ok(())
    }

    /// Takes in events until a change of this object, which is given as in `batches`.
    pub(super) fn until_change(&mut self, change: &str) -> Result<()> {
        let from = self.batches.len();
        self.until(change, |seen| {
            seen.batches.iter().skip(from).flatten().any(|seen| seen == change)
        })
    }

    /// The batches since the first `from` that have changes of this kind.
    pub(super) fn batches_of(&self, kind: &str, from: usize) -> Vec<Vec<String>> {
        let of_kind = |change: &String| change.get(1..).is_some_and(|name| name.starts_with(kind));
        let batches = self.batches.iter().skip(from);
        batches.filter(|batch| batch.iter().any(of_kind)).cloned().collect()
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Changes(objects) => {
                let changes: Vec<Change> =
                    objects.into_iter().map(|object| object.change).collect();
                self.batches.push(changes.iter().map(signed_name).collect());
                for change in changes {
                    let name = signed_name(&change);
                    let (sign, name) = name.split_at(1);
                    if sign == "+" {
                        self.objects.insert(name.to_owned(), change);
                    } else {
                        self.objects.remove(name);
                    }
                }
            }
            Event::Synced => {
                assert_eq!(self.synced_after, None, "it is sent once");
                self.synced_after = Some(self.batches.len());
            }
            Event::SyncedInPart => {
                assert_eq!(self.synced_after, None, "all is known");
                self.is_synced_in_part = true;
            }
            Event::Diagnostics(origin, told) => {
                let told = told.iter().map(ToString::to_string).collect();
                self.diagnostics.insert(origin.to_string(), told);
            }
        }
    }
}

fn signed_name(change: &Change) -> String {
    let sign = if change.is_removal() { '-' } else { '+' };
    format!("{sign}{}", change.object().titled())
}
