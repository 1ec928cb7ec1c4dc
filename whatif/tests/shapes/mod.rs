//! Golden sessions about clusters of the shapes that public projects have: an online shop, monitoring
//! by an operator, a deployment tool, and tenants.

use super::session::session;

golden!(
    an_online_shop,
    "lint -f whatif/tests/sources/shapes/online-shop.yaml",
    "map -f whatif/tests/sources/shapes/online-shop.yaml",
    "map -o mermaid -f whatif/tests/sources/shapes/online-shop.yaml",
    "check shop/frontend shop/payment -f whatif/tests/sources/shapes/online-shop.yaml",
    "check shop/checkout svc/redis -n shop -f whatif/tests/sources/shapes/online-shop.yaml",
    "suggest shop/frontend shop/payment:grpc -f whatif/tests/sources/shapes/online-shop.yaml",
    "plan -f whatif/tests/sources/shapes/online-shop.yaml \
     --with whatif/tests/sources/shapes/online-shop-change.yaml",
);

golden!(
    monitoring_by_an_operator,
    "lint -f whatif/tests/sources/shapes/kube-prometheus.yaml",
    "map -f whatif/tests/sources/shapes/kube-prometheus.yaml",
    "who monitoring/main -f whatif/tests/sources/shapes/kube-prometheus.yaml",
    "check apps/api monitoring/prometheus/k8s:web -f whatif/tests/sources/shapes/kube-prometheus.yaml",
    "check monitoring/grafana monitoring/k8s:web -f whatif/tests/sources/shapes/kube-prometheus.yaml",
    "plan -f whatif/tests/sources/shapes/kube-prometheus.yaml --without netpol/monitoring/grafana",
);

golden!(
    a_deployment_tool,
    "lint -f whatif/tests/sources/shapes/argo-cd.yaml",
    "map -f whatif/tests/sources/shapes/argo-cd.yaml",
    "policies argocd/argocd-redis -f whatif/tests/sources/shapes/argo-cd.yaml",
    "check team-a/web argocd/argocd-redis:6379 -f whatif/tests/sources/shapes/argo-cd.yaml",
    "exposure argocd/argocd-repo-server -f whatif/tests/sources/shapes/argo-cd.yaml",
    "plan -f whatif/tests/sources/shapes/argo-cd.yaml --without netpol/argocd/argocd-redis",
);

golden!(
    tenants,
    "lint -f whatif/tests/sources/shapes/tenants.yaml",
    "map --by namespace -f whatif/tests/sources/shapes/tenants.yaml",
    "map -o md -f whatif/tests/sources/shapes/tenants.yaml",
    "check red/web blue/db -f whatif/tests/sources/shapes/tenants.yaml",
    "plan -f whatif/tests/sources/shapes/tenants.yaml \
     --with whatif/tests/sources/shapes/tenants-change.yaml",
);

golden!(
    routes_of_every_kind,
    "map -o dot -f whatif/tests/sources/routes.yaml",
    "map -o json -f whatif/tests/sources/routes.yaml",
    "plan -f whatif/tests/sources/routes.yaml --with whatif/tests/sources/plan-routes.yaml",
    "plan -f whatif/tests/sources/routes.yaml --with whatif/tests/sources/plan-routes.yaml \
     --fail-on backend -o md",
);
