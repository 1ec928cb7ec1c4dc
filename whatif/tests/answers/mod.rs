//! More golden sessions: suggested policies, Services by name, and backends that a plan closes.

use super::session::{run, session, text};

golden!(
    suggest_writes_the_least_policies,
    "suggest jobs/cleanup shop/db-1:5432 -f examples/shop",
    "suggest shop/web-1 shop/api-1 8080 -f examples/shop",
    "suggest -c whatif/tests/sources/connections.txt -f examples/shop",
    "suggest --tests whatif/tests/sources/shop-tests.yaml -f examples/shop --without netpol/shop/db",
    "suggest --denials whatif/tests/sources/agents.log -f whatif/tests/sources/running.yaml",
    "suggest shop/web shop/db:5432 -o json -f whatif/tests/sources/running.yaml",
    "suggest -f examples/shop",
    "suggest red/web 169.254.169.254:80 -f examples/cluster/world.yaml -f examples/cluster/guardrails",
);

golden!(
    exposure_tells_what_pods_to_come_could_do,
    "exposure -f examples/shop",
    "exposure jobs/* -f examples/shop",
    "exposure shop/db-1 -o json -f examples/shop",
    "exposure -f examples/cluster/world.yaml -f examples/cluster/guardrails",
    "exposure shop/web-1:80 -f examples/shop",
    "exposure external -f examples/shop",
    "exposure shop/db -o yaml -f whatif/tests/sources/running.yaml",
);

golden!(
    services_and_the_api_server_have_names,
    "check shop/web api.shop.svc.cluster.local:web -f whatif/tests/sources/services.yaml",
    "check shop/web --to-service api.shop.svc:80 -f whatif/tests/sources/services.yaml",
    "check shop/web --to-service api:80 -n shop -f whatif/tests/sources/services.yaml",
    "check shop/web --to-service api.shop:81 -f whatif/tests/sources/services.yaml",
    "check shop/web --to-service 10.1.0.2 -f whatif/tests/sources/services.yaml",
    "check shop/web apiserver -f whatif/tests/sources/services.yaml",
    "check shop/web apiserver:443 -f whatif/tests/sources/services.yaml",
    "check shop/web kubernetes.default.svc:443 -f whatif/tests/sources/services.yaml",
    "check shop/web billing.shop.svc -f whatif/tests/sources/services.yaml",
    "check shop/web-1 apiserver -f examples/shop",
    "suggest shop/web apiserver -f whatif/tests/sources/services.yaml",
);

golden!(
    a_default_can_allow_the_api_server,
    "check shop/api apiserver -f whatif/tests/sources/services.yaml -f whatif/tests/sources/allow-api-server.yaml",
    "check shop/api 203.0.113.5:443 -o json -f whatif/tests/sources/services.yaml -f whatif/tests/sources/allow-api-server.yaml",
    "policies shop/api -f whatif/tests/sources/services.yaml -f whatif/tests/sources/allow-api-server.yaml",
    "policies shop/api -o json -f whatif/tests/sources/services.yaml -f whatif/tests/sources/allow-api-server.yaml",
    "plan -f whatif/tests/sources/services.yaml -f whatif/tests/sources/allow-api-server.yaml --with whatif/tests/sources/plan-api-server.yaml",
    "check jobs/cleanup 203.0.113.5:6443 -f examples/shop -f whatif/tests/sources/allow-api-server.yaml",
);

golden!(
    plan_tells_which_backends_are_lost,
    "plan -f whatif/tests/sources/frontends.yaml --with whatif/tests/sources/plan-frontends.yaml",
    "plan -f whatif/tests/sources/frontends.yaml --with whatif/tests/sources/plan-frontends.yaml --fail-on backend -o json",
    "plan -f whatif/tests/sources/frontends.yaml --with whatif/tests/sources/plan-labels.yaml --fail-on backend",
    "plan -f whatif/tests/sources/frontends.yaml -f whatif/tests/sources/plan-frontends.yaml --without netpol/shop/web --fail-on backend",
);

#[test]
fn an_undetermined_answer_does_not_say_nothing_twice() {
    let world = "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}}\n---\n\
                 {apiVersion: v1, kind: Node, metadata: {name: n1}}\n---\n\
                 {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: \
                 x}, spec: {podSelector: {}}}";
    let answer = text(&run("check node/n1 x/a -f -", world).stdout);
    assert!(answer.starts_with("Undetermined: node/n1 may open nothing at x/a.\n"), "{answer}");
}
