//! The agents of a live cluster, and what they log.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::io::{AsyncBufReadExt as _, AsyncReadExt as _};
use kube::Client;
use kube::api::{ListParams, LogParams};
use kube::core::Request;
use portcullis_apiserver::failure::has_code;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connection::{Connection, within};
use crate::denials::Record;

/// The labels of the agents' pods.
pub(super) const AGENTS: &str =
    "app.kubernetes.io/name=portcullis,app.kubernetes.io/component=node";
/// The container that the agent is in.
pub(super) const CONTAINER: &str = "node";
/// How much of one log is read at most.
const LOG_BYTES_MAX: i64 = 256 << 20;
/// How much of one line is read: a record is far shorter.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// How many logs are read at the same time.
const AT_ONCE: usize = 16;
/// How often new agents are looked for while logs are followed.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// How many records may wait to be written.
const QUEUE: usize = 1024;

/// An event of the logs that are followed.
pub enum News {
    /// A record.
    Record(Box<Record>),
    /// A log that could not be read, and why.
    Failed(String),
}

/// Reads the denials that all agents logged within `since`, in the order of their time; and the logs
/// that could not be read.
///
/// # Errors
/// When the agents cannot be listed, there is none, or none of the logs can be read.
pub fn denials(
    connection: &Connection,
    namespace: &str,
    since: Duration,
) -> Result<(Vec<Record>, Vec<String>)> {
    connection.block_on(async {
        let (client, limit) = (connection.client(), connection.limit());
        let agents = within(limit, list(&client, namespace)).await;
        let agents = agents.map_err(|error| explain(error, namespace))?;
        if agents.is_empty() {
            bail!("namespace {namespace} has no agents; --own-namespace names the namespace of Portcullis");
        }
        let (mut records, mut failures) = (Vec::new(), Vec::new());
        let mut reading: JoinSet<Result<Vec<Record>, String>> = JoinSet::new();
        let mut waiting = agents.into_iter();
        loop {
            while reading.len() < AT_ONCE
                && let Some(pod) = waiting.next()
            {
                let (client, namespace) = (client.clone(), namespace.to_owned());
                reading.spawn(async move {
                    let (sender, mut receiver) = mpsc::channel(QUEUE);
                    let log = read(&client, &namespace, &pod, params(since, false), sender);
                    let collect = async {
                        let mut records = Vec::new();
                        while let Some(record) = receiver.recv().await {
                            records.push(record);
                        }
                        records
                    };
                    let (read, records) = tokio::join!(log, collect);
                    read.map(|()| records).map_err(|error| failed(&pod, &error))
                });
            }
            match reading.join_next().await {
                None => break,
                Some(Ok(Ok(found))) => records.extend(found),
                Some(Ok(Err(failure))) => failures.push(failure),
                Some(Err(panicked)) => failures.push(panicked.to_string()),
            }
        }
        records.sort_by(|a, b| a.time.cmp(&b.time));
        if let (true, Some(first)) = (records.is_empty(), failures.first()) {
            bail!("{first}");
        }
        Ok((records, failures))
    })
}

/// Passes the denials that all agents log, starting `since` ago, to `take` as they are logged,
/// until `take` fails. Agents that start later are followed too.
///
/// # Errors
/// When the agents cannot be listed at first, or `take` fails.
pub fn follow(
    connection: &Connection,
    namespace: &str,
    since: Duration,
    mut take: impl FnMut(News) -> Result<()>,
) -> Result<()> {
    connection.block_on(async {
        let (client, limit) = (connection.client(), connection.limit());
        let first = within(limit, list(&client, namespace)).await;
        let mut agents = first.map_err(|error| explain(error, namespace))?;
        if agents.is_empty() {
            take(News::Failed(format!("namespace {namespace} has no agents yet")))?;
        }
        let (sender, mut receiver) = mpsc::channel::<(String, Result<Record, String>)>(QUEUE);
        let began = Instant::now();
        let mut followed: BTreeSet<String> = BTreeSet::new();
        // The time of the last record of each agent: a log that is read again begins earlier.
        let mut last: BTreeMap<String, Option<String>> = BTreeMap::new();
        let mut reading: JoinSet<String> = JoinSet::new();
        let mut look = tokio::time::interval(LOOK_PERIOD);
        loop {
            for pod in
                agents.iter().filter(|pod| !followed.contains(*pod)).cloned().collect::<Vec<_>>()
            {
                followed.insert(pod.clone());
                let (client, namespace, sender) =
                    (client.clone(), namespace.to_owned(), sender.clone());
                let params = params(since + began.elapsed(), true);
                reading.spawn(async move {
                    let (lines, mut records) = mpsc::channel(QUEUE);
                    let log = read(&client, &namespace, &pod, params, lines);
                    let pass = async {
                        while let Some(record) = records.recv().await {
                            if sender.send((pod.clone(), Ok(record))).await.is_err() {
                                break;
                            }
                        }
                    };
                    let (read, ()) = tokio::join!(log, pass);
                    if let Err(error) = read {
                        let _ = sender.send((pod.clone(), Err(failed(&pod, &error)))).await;
                    }
                    pod
                });
            }
            tokio::select! {
                Some((pod, news)) = receiver.recv() => match news {
                    Ok(record) => {
                        let last = last.entry(pod).or_default();
                        if record.time > *last {
                            last.clone_from(&record.time);
                            take(News::Record(Box::new(record)))?;
                        }
                    }
                    Err(failure) => take(News::Failed(failure))?,
                },
                // The log is followed again after the next list of agents, if the agent still runs.
                Some(Ok(pod)) = reading.join_next() => {
                    agents.retain(|agent| *agent != pod);
                    followed.remove(&pod);
                }
                _ = look.tick() => {
                    if let Ok(found) = within(limit, list(&client, namespace)).await {
                        agents = found;
                    }
                }
            }
        }
    })
}

/// The pods of the agents that have started.
async fn list(client: &Client, namespace: &str) -> Result<Vec<String>, kube::Error> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let request = Request::new(path).list(&ListParams::default().labels(AGENTS));
    let list: Value = client.request(request.map_err(kube::Error::BuildRequest)?).await?;
    let started = |pod: &&Value| pod["status"]["phase"] != "Pending";
    let pods = list["items"].as_array().into_iter().flatten().filter(started);
    Ok(pods.filter_map(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned())).collect())
}

fn explain(error: kube::Error, namespace: &str) -> anyhow::Error {
    let what = if has_code(&error, 403) {
        format!(
            "denials are in the logs of the agents: `list` on pods and `get` on pods/log in namespace {namespace} are needed"
        )
    } else {
        format!("failed to list the agents in namespace {namespace}")
    };
    anyhow::Error::from(error).context(what)
}

fn failed(pod: &str, error: &anyhow::Error) -> String {
    format!("the log of {pod} cannot be read: {error:#}")
}

fn params(since: Duration, follow: bool) -> LogParams {
    // The API counts whole seconds, at least one.
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX).saturating_add(1);
    LogParams {
        container: Some(CONTAINER.to_owned()),
        follow,
        limit_bytes: (!follow).then_some(LOG_BYTES_MAX),
        since_seconds: Some(seconds),
        ..LogParams::default()
    }
}

/// Reads the records of one log until it ends, or the receiver is closed.
async fn read(
    client: &Client,
    namespace: &str,
    pod: &str,
    params: LogParams,
    records: mpsc::Sender<Record>,
) -> Result<()> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let request = Request::new(path).logs(pod, &params)?;
    let mut log = pin!(client.request_stream(request).await?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = log.as_mut().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await;
        if read.context("the connection was lost")? == 0 {
            return Ok(());
        }
        if let Some(record) = Record::read(&String::from_utf8_lossy(&line))
            && records.send(record).await.is_err()
        {
            return Ok(());
        }
    }
}
