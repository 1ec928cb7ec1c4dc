//! The API server of tests tells what is wrong with it. That it comes back as it was, knows who asks
//! and is reached by all nodes is what the other tests rely on, and fail without.

use portcullis_tests::kube::{ApiServer, Options};

#[test]
fn a_server_that_cannot_start_says_why() {
    let wrong = Options::default().api_server_arg("--no-such-flag");
    let failure = format!("{:#}", ApiServer::start(wrong).err().expect("it has no such flag"));
    assert!(failure.contains("unknown flag: --no-such-flag"), "{failure}");
}
