//! The election against a real API server. It has a thread of its own, so that the lease is renewed
//! however long the controller computes.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, info, warn};

use super::{Attempt, Contender};
use portcullis_apiserver::client::{Access, AccessError};

/// How long the end of the process waits until the lease is released.
const RELEASE_LIMIT: Duration = Duration::from_secs(3);

/// Whether this process leads.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// A leadership without a Lease, which does not end.
    #[must_use]
    pub fn always() -> Self {
        let far = Instant::now() + Duration::from_hours(10 * 365 * 24);
        Self(watch::channel(Some(far)).1)
    }

    /// Whether this process leads now. Call it just before each write: the term may have ended
    /// while the process was stopped.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }
}

/// A running election.
pub struct Election {
    leadership: Leadership,
    end: Option<oneshot::Sender<SyncSender<()>>>,
}

impl Election {
    /// Starts to compete for a Lease in `namespace`.
    ///
    /// # Errors
    /// When there is no client for the API server, or no thread can be started.
    pub fn start(
        access: Access,
        namespace: String,
        contender: Contender,
    ) -> Result<Self, AccessError> {
        let (sender, leadership) = watch::channel(None);
        let (end, ending) = oneshot::channel();
        access.spawn("lease", move |client| {
            let leases = Api::namespaced(client, &namespace);
            Round { leases, contender, sender }.compete(ending)
        })?;
        Ok(Self { leadership: Leadership(leadership), end: Some(end) })
    }

    /// Whether this process leads.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Releases the lease. The caller must not write as leader any more.
    pub fn release(mut self) {
        let (done, released) = sync_channel(1);
        if self.end.take().is_some_and(|end| end.send(done).is_ok()) {
            let _ = released.recv_timeout(RELEASE_LIMIT);
        }
    }
}

struct Round {
    leases: Api<Lease>,
    contender: Contender,
    sender: watch::Sender<Option<Instant>>,
}

impl Round {
    async fn compete(mut self, mut ending: oneshot::Receiver<SyncSender<()>>) {
        let mut asked = false;
        loop {
            let began = Instant::now();
            tokio::select! {
                biased;
                done = &mut ending => return self.end(done).await,
                result = self.attempt_in_time(asked) => asked = self.settle(result),
            }
            let retry = began + self.contender.timing().retry;
            let wake = self.contender.leads_until().map_or(retry, |until| until.min(retry));
            tokio::select! {
                biased;
                done = &mut ending => return self.end(done).await,
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Releases the lease, then notifies the caller of [`Election::release`].
    async fn end(&mut self, done: Result<SyncSender<()>, oneshot::error::RecvError>) {
        self.release().await;
        if let Ok(done) = done {
            let _ = done.send(());
        }
    }

    /// One attempt, which is given up when an answer would come too late.
    async fn attempt_in_time(&mut self, known: bool) -> Result<(), String> {
        let now = Instant::now();
        let limit = now + self.contender.timing().deadline / 2;
        let limit = match self.contender.leads_until() {
            Some(until) if until <= now => {
                // The process was stopped, or could not renew: this term is over in any case.
                return Err("the term is over".to_owned());
            }
            Some(until) => until.min(limit),
            None => limit,
        };
        match timeout_at(limit, self.attempt(known)).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("the API server did not answer in time".to_owned()),
        }
    }

    /// Tries to acquire or renew the Lease. Reads it first, unless it is `known` to be as we wrote
    /// it last.
    async fn attempt(&mut self, known: bool) -> Result<(), kube::Error> {
        if !(known && self.contender.leads_until().is_some()) {
            let found = self.leases.get_opt(&self.contender.name).await?;
            self.contender.observe(found, Instant::now());
        }
        let sent = Instant::now();
        let written = match self.contender.attempt(sent, Timestamp::now()) {
            Attempt::Wait => return Ok(()),
            Attempt::Create(lease) => self.leases.create(&PostParams::default(), &lease).await?,
            Attempt::Replace(lease) => {
                self.leases.replace(&self.contender.name, &PostParams::default(), &lease).await?
            }
        };
        self.contender.written(written, sent);
        Ok(())
    }

    /// Publishes and logs the result of an attempt. Returns whether the Lease is as we wrote it.
    fn settle(&mut self, result: Result<(), String>) -> bool {
        let now = Instant::now();
        let led = self.sender.borrow().is_some();
        let expired = self.contender.leads_until().is_some_and(|until| until <= now);
        if expired {
            self.contender.give_up();
        }
        let until = self.contender.leads_until();
        let is_well = result.is_ok();
        if let Err(error) = result {
            debug!(error, "failed to acquire or renew the lease");
            if led && until.is_none() {
                warn!(error, "lost the lease: it was not renewed in time");
            }
        } else if led && until.is_none() {
            warn!(holder = self.contender.holder(), "lost the lease: another replica leads");
        }
        if !led && until.is_some() {
            info!(identity = self.contender.identity, "leading");
        }
        self.sender.send_replace(until);
        is_well
    }

    async fn release(&mut self) {
        self.sender.send_replace(None);
        let Some(lease) = self.contender.release(Timestamp::now()) else { return };
        let (name, params) = (self.contender.name.clone(), PostParams::default());
        let write = self.leases.replace(&name, &params, &lease);
        match timeout_at(Instant::now() + RELEASE_LIMIT, write).await {
            Ok(Ok(_)) => info!("released the lease"),
            Ok(Err(error)) => warn!(%error, "failed to release the lease; it expires by itself"),
            Err(_) => warn!("failed to release the lease in time; it expires by itself"),
        }
    }
}
