//! How a client finds the API server and says who it is: the text of a kubeconfig.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

/// Who a client is.
pub(super) enum Credentials<'a> {
    /// The files of a client certificate and its key.
    Certificate(&'a Path, &'a Path),
    /// The token of a ServiceAccount.
    Token(&'a str),
}

/// A kubeconfig with one context.
pub(super) fn render(server: SocketAddr, authority: &Path, who: &Credentials<'_>) -> String {
    let user: Value = match who {
        Credentials::Certificate(certificate, key) => {
            json!({"client-certificate": certificate, "client-key": key})
        }
        Credentials::Token(token) => json!({"token": token}),
    };
    let cluster =
        json!({"server": format!("https://{server}"), "certificate-authority": authority});
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    });
    config.to_string()
}

/// A kubeconfig for a server that asks nobody who they are and does not encrypt.
#[must_use]
pub fn plain_kubeconfig(server: SocketAddr) -> String {
    format!(
        "{{apiVersion: v1, kind: Config, current-context: a, \
         clusters: [{{name: a, cluster: {{server: 'http://{server}'}}}}], \
         users: [{{name: a, user: {{}}}}], \
         contexts: [{{name: a, context: {{cluster: a, user: a}}}}]}}"
    )
}
