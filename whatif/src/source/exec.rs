//! Runs programs in the pods of the agents, as `kubectl exec` does.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use kube::api::{AttachParams, Execute, ListParams};
use kube::core::{NamespaceResourceScope, ObjectMeta, Request};
use kube::{Api, Client, Resource};
use portcullis_apiserver::failure::has_code;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

use super::agents::{AGENTS, CONTAINER};
use super::connection::{Connection, within};

/// How many bytes of output a program may write.
const OUTPUT_BYTES_MAX: u64 = 256 << 20;
/// How many bytes of output may wait to be read.
const BUFFER_BYTES: usize = 64 << 10;
/// How many programs run at the same time.
const AT_ONCE: usize = 16;

/// A pod, as far as a program is started in it.
#[derive(Clone, Default, Debug, Deserialize)]
struct AgentPod {
    metadata: ObjectMeta,
}

impl Resource for AgentPod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Execute for AgentPod {}

/// RBAC does not allow to run programs in the pods of agents.
#[derive(Debug, thiserror::Error)]
#[error("`create` and `get` on pods/exec are forbidden")]
pub struct Forbidden;

/// The result of a program.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// The pods of the agents that run, by the name of their node.
///
/// # Errors
/// When they cannot be listed, or there is none.
pub fn agents(connection: &Connection, namespace: &str) -> Result<BTreeMap<String, String>> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let list = connection.block_on(async {
        let request = Request::new(path).list(&ListParams::default().labels(AGENTS));
        let request = request.map_err(kube::Error::BuildRequest)?;
        within(connection.limit(), connection.client().request::<Value>(request)).await
    });
    let list =
        list.with_context(|| format!("failed to list the agents in namespace {namespace}"))?;
    let running = |pod: &&Value| {
        pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
    };
    let pods = list["items"].as_array().into_iter().flatten().filter(running);
    let agents: BTreeMap<String, String> = pods
        .filter_map(|pod| {
            let (node, name) =
                (pod["spec"]["nodeName"].as_str()?, pod["metadata"]["name"].as_str()?);
            Some((node.to_owned(), name.to_owned()))
        })
        .collect();
    if agents.is_empty() {
        bail!(
            "no agent runs in namespace {namespace}; --own-namespace names the namespace of Portcullis"
        );
    }
    Ok(agents)
}

/// Whether RBAC does not allow to run the program.
#[must_use]
pub fn is_forbidden(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Forbidden>().is_some()
}

/// Runs `command` in each of these pods. Returns each result, or why there is none, in the order of
/// the pods.
#[must_use]
pub fn run_in_each(
    connection: &Connection,
    namespace: &str,
    pods: &[String],
    command: &[String],
) -> Vec<Result<Ran>> {
    connection.block_on(async {
        let mut running = JoinSet::new();
        let mut answers: BTreeMap<usize, Result<Ran>> = BTreeMap::new();
        let mut waiting = pods.iter().cloned().enumerate();
        loop {
            while running.len() < AT_ONCE
                && let Some((index, pod)) = waiting.next()
            {
                let (client, limit) = (connection.client(), connection.limit());
                let (namespace, command) = (namespace.to_owned(), command.to_owned());
                running.spawn(async move {
                    let run = run(client, &namespace, &pod, &command);
                    let ran = if limit.is_zero() {
                        run.await
                    } else {
                        let ran = tokio::time::timeout(limit, run).await;
                        ran.unwrap_or_else(|_| {
                            bail!("it did not answer within {} s", limit.as_secs_f32())
                        })
                    };
                    (index, ran.with_context(|| format!("failed to ask the agent {pod}")))
                });
            }
            match running.join_next().await {
                None => return answers.into_values().collect(),
                Some(Ok((index, ran))) => drop(answers.insert(index, ran)),
                // A task panicked: the caller must not take this for an answer.
                Some(Err(error)) => drop(answers.insert(answers.len(), Err(error.into()))),
            }
        }
    })
}

async fn run(client: Client, namespace: &str, pod: &str, command: &[String]) -> Result<Ran> {
    let params = AttachParams {
        container: Some(CONTAINER.to_owned()),
        stdin: false,
        stdout: true,
        stderr: true,
        max_stdout_buf_size: Some(BUFFER_BYTES),
        ..AttachParams::default()
    };
    let api: Api<AgentPod> = Api::namespaced(client, namespace);
    let mut process = api.exec(pod, command, &params).await.map_err(|error| {
        if has_code(&error, 403) { Forbidden.into() } else { anyhow::Error::from(error) }
    })?;
    let (stdout, stderr, status) = (process.stdout(), process.stderr(), process.take_status());
    let (Some(stdout), Some(stderr), Some(status)) = (stdout, stderr, status) else {
        bail!("the connection has no output");
    };
    let (mut stdout_text, mut stderr_text) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (stdout.take(OUTPUT_BYTES_MAX), stderr.take(OUTPUT_BYTES_MAX));
    let (read_stdout, read_stderr, status) = tokio::join!(
        stdout.read_to_string(&mut stdout_text),
        stderr.read_to_string(&mut stderr_text),
        status
    );
    read_stdout.and(read_stderr).context("the connection was lost")?;
    let status = serde_json::to_value(status.context("the connection ended without a result")?)?;
    let code = exit_code(&status).with_context(|| {
        let message = status["message"].as_str().unwrap_or("unknown");
        format!("the program did not run: {message}")
    })?;
    Ok(Ran { code, stdout: stdout_text, stderr: stderr_text })
}

/// The exit code in the status that ends the connection; `None` when the program did not run.
fn exit_code(status: &Value) -> Option<i32> {
    if status["status"] == "Success" {
        return Some(0);
    }
    let causes = status["details"]["causes"].as_array()?;
    let code = causes.iter().find(|cause| cause["reason"] == "ExitCode")?;
    code["message"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_exit_code_is_in_the_status() {
        assert_eq!(exit_code(&json!({"status": "Success"})), Some(0));
        let failed = json!({"status": "Failure", "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}});
        assert_eq!(exit_code(&failed), Some(3));
        assert_eq!(exit_code(&json!({"status": "Failure", "message": "no such file"})), None);
    }
}
