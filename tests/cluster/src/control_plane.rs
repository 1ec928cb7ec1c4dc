//! What runs beside the API server: the controller manager and the scheduler.

use std::path::Path;

use anyhow::Result;
use portcullis_lab::Lab;
use portcullis_tests::kube::{ApiServer, Guarded};

/// Running controllers. Dropping it kills them.
pub(crate) struct ControlPlane {
    _controller_manager: Guarded,
    _scheduler: Guarded,
}

impl ControlPlane {
    /// Starts both. Their logs are in `directory`.
    pub(crate) fn start(
        lab: &Lab,
        server: &ApiServer,
        binaries: &Path,
        directory: &Path,
    ) -> Result<Self> {
        let start = |program: &str, arguments: Vec<String>| {
            let log = directory.join(format!("{program}.log"));
            Guarded::start(Some(lab.fabric()), &binaries.join(program), &arguments, &log)
        };
        let kubeconfig = |program: &str| {
            let user = format!("system:{program}");
            let file = server.kubeconfig_for_user(&user, None)?;
            anyhow::Ok(format!("--kubeconfig={}", file.display()))
        };
        let pki = |name: &str| server.pki_file(name).display().to_string();
        let manager = vec![
            kubeconfig("kube-controller-manager")?,
            format!("--service-account-private-key-file={}", pki("tokens.key")),
            format!("--root-ca-file={}", pki("ca.crt")),
            format!("--cluster-signing-cert-file={}", pki("ca.crt")),
            format!("--cluster-signing-key-file={}", pki("ca.key")),
            "--use-service-account-credentials=true".to_owned(),
            "--leader-elect=false".to_owned(),
            // A node that is killed is noticed soon: tests wait for it.
            "--node-monitor-grace-period=16s".to_owned(),
        ];
        let scheduler = vec![kubeconfig("kube-scheduler")?, "--leader-elect=false".to_owned()];
        Ok(Self {
            _controller_manager: start("kube-controller-manager", manager)?,
            _scheduler: start("kube-scheduler", scheduler)?,
        })
    }
}
