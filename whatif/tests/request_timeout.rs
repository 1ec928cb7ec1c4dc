//! `--request-timeout`: an API server that accepts connections and never answers is an error.

mod session;

use std::net::TcpListener;

use session::{run, text};

#[test]
fn a_server_that_never_answers_is_an_error() {
    // The kernel accepts connections to a listener, and nobody reads them.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("kubeconfig");
    let server = listener.local_addr().expect("an address");
    let kubeconfig = format!(
        "{{apiVersion: v1, kind: Config, current-context: a, clusters: [{{name: a, cluster: \
         {{server: 'http://{server}'}}}}], users: [{{name: a, user: {{}}}}], contexts: [{{name: a, \
         context: {{cluster: a, user: a}}}}]}}"
    );
    std::fs::write(&path, kubeconfig).expect("written");
    let answer = run(&format!("map --kubeconfig {} --request-timeout 100ms", path.display()), "");
    let problem = text(&answer.stderr);
    assert_eq!(answer.status.code(), Some(2), "{problem}");
    assert!(problem.contains("failed to list namespaces"), "{problem}");
    assert!(problem.contains("the API server did not answer within 0.1 s"), "{problem}");
    let refused = run("map -f examples/shop --request-timeout 1s", "");
    assert!(text(&refused.stderr).contains("--request-timeout is about a live cluster"));
    let refused = run("map --request-timeout soon", "");
    assert!(text(&refused.stderr).contains("`soon` is not a duration"));
}
