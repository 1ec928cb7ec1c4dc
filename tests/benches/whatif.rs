//! What questions about a large cluster cost, from the files on disk to the last byte of the answer.
//!
//! `cargo bench -p portcullis-tests --bench whatif`

use std::fmt::Write as _;
use std::hint::black_box;

use clap::Parser as _;
use criterion::{Criterion, criterion_group, criterion_main};
use portcullis_whatif::args::Args;
use portcullis_whatif::command;

const NAMESPACES: u32 = 500;
const APPS: u32 = 4;
const REPLICAS: u32 = 5;
const POLICIES: u32 = 10;

/// 10,000 pods of 2,000 Deployments in 500 namespaces, with 5,000 policies: one JSON object a line.
fn snapshot() -> String {
    let mut text = String::new();
    for namespace in 0..NAMESPACES {
        let team = namespace % 50;
        let _ = writeln!(
            text,
            "{{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{{\"name\":\"ns-{namespace}\",\
             \"labels\":{{\"team\":\"team-{team}\"}}}}}}"
        );
        for app in 0..APPS {
            for replica in 0..REPLICAS {
                pod(&mut text, namespace, app, replica);
            }
        }
        for number in 0..POLICIES {
            policy(&mut text, namespace, number);
        }
    }
    text
}

fn pod(text: &mut String, namespace: u32, app: u32, replica: u32) {
    let number = (namespace * APPS + app) * REPLICAS + replica;
    let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
    let node = number % 100;
    let _ = writeln!(
        text,
        "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"app-{app}-5d8f-{replica}\",\
         \"namespace\":\"ns-{namespace}\",\"labels\":{{\"app\":\"app-{app}\",\
         \"pod-template-hash\":\"5d8f\"}},\"ownerReferences\":[{{\"apiVersion\":\"apps/v1\",\
         \"kind\":\"ReplicaSet\",\"name\":\"app-{app}-5d8f\",\"uid\":\"u\",\"controller\":true}}]}},\
         \"spec\":{{\"nodeName\":\"node-{node}\",\"containers\":[{{\"name\":\"app\",\"ports\":\
         [{{\"name\":\"http\",\"containerPort\":8080}}]}}]}},\"status\":{{\"phase\":\"Running\",\
         \"podIPs\":[{{\"ip\":\"{address}\"}}]}}}}"
    );
}

/// Selects one app; admits another app of the namespace and the namespaces of a team.
fn policy(text: &mut String, namespace: u32, number: u32) {
    let (subject, peer) = (number % APPS, (number + 1) % APPS);
    let team = (namespace + number) % 50;
    let port = 8000 + number;
    let _ = writeln!(
        text,
        "{{\"apiVersion\":\"networking.k8s.io/v1\",\"kind\":\"NetworkPolicy\",\"metadata\":\
         {{\"name\":\"policy-{number}\",\"namespace\":\"ns-{namespace}\"}},\"spec\":{{\"podSelector\":\
         {{\"matchLabels\":{{\"app\":\"app-{subject}\"}}}},\"policyTypes\":[\"Ingress\"],\"ingress\":\
         [{{\"from\":[{{\"podSelector\":{{\"matchLabels\":{{\"app\":\"app-{peer}\"}}}}}},\
         {{\"namespaceSelector\":{{\"matchLabels\":{{\"team\":\"team-{team}\"}}}}}}],\
         \"ports\":[{{\"port\":{port}}}]}}]}}}}"
    );
}

fn questions(criterion: &mut Criterion) {
    let file = tempfile::Builder::new().suffix(".json").tempfile().expect("a temporary file");
    std::fs::write(file.path(), snapshot()).expect("it can be written");
    let path = file.path().to_str().expect("UTF-8");
    let mut group = criterion.benchmark_group("10k pods, 500 namespaces, 5k policies, from a file");
    group.sample_size(10);
    for line in [
        "map -o json",
        "map",
        "check ns-1/deploy/app-1 ns-2/deploy/app-2:8001",
        "who ns-1/deploy/app-1",
    ] {
        group.bench_function(line, |bencher| {
            bencher.iter(|| {
                let words = ["kubectl-whatif"].into_iter().chain(line.split(' '));
                let args = Args::parse_from(words.chain(["-f", path]));
                let mut answer = Vec::new();
                command::run(args, &mut answer).expect("an answer");
                black_box(answer)
            });
        });
    }
}

criterion_group!(benches, questions);
criterion_main!(benches);
