//! What `deploy/release.sh` makes: archives whose bytes depend on nothing but their files, checksums, SBOMs, and
//! a manifest that krew can use. `make release-check` checks more, on the programs of a release.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_crds::manifest::Manifest;

use super::session::text;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a program in a directory; what it prints.
fn run(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).current_dir(directory).args(arguments).output();
    let output = output.expect("the program");
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn portcullis_chart() -> String {
    format!("portcullis-{}.tgz", env!("CARGO_PKG_VERSION"))
}

/// A release for amd64, from a program that is as small as a test needs it.
fn release(directory: &Path, out: &str) -> PathBuf {
    let programs = directory.join("programs");
    fs::create_dir_all(&programs).expect("a directory");
    let program = programs.join("kubectl-whatif");
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_kubectl-whatif"));
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    let script = root().join("deploy/release.sh").canonicalize().expect("the script");
    run(directory, &script.display().to_string(), &["programs", "amd64", out]);
    directory.join(out)
}

#[test]
fn a_release_has_archives_with_checksums_and_a_manifest_for_krew() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = release(directory.path(), "out");
    let version = env!("CARGO_PKG_VERSION");
    let checked = run(&out, "sha256sum", &["--check", "SHA256SUMS"]);
    let plugin = "kubectl-whatif-linux-amd64.tar.gz";
    let chart = portcullis_chart();
    let sbom = "kubectl-whatif-linux-amd64.cdx.json";
    assert_eq!(checked, format!("{sbom}: OK\n{plugin}: OK\nnetpol-whatif.yaml: OK\n{chart}: OK\n"));

    let manifest = fs::read_to_string(out.join("netpol-whatif.yaml")).expect("the manifest");
    let manifest = Manifest::parse("netpol-whatif.yaml", &manifest);
    assert_eq!(manifest.diagnostics, []);
    let plugin_spec = &manifest.documents.first().expect("a document").value()["spec"];
    assert_eq!(plugin_spec["version"], format!("v{version}"));
    // The other architecture was not built.
    let [platform] = plugin_spec["platforms"].as_array().expect("platforms").as_slice() else {
        panic!("{plugin_spec}");
    };
    assert_eq!(platform["selector"]["matchLabels"]["arch"], "amd64");
    assert_eq!(platform["bin"], "kubectl-whatif");
    let uri = platform["uri"].as_str().expect("a URI");
    assert!(uri.ends_with(&format!("/releases/download/v{version}/{plugin}")), "{uri}");
    let sums = fs::read_to_string(out.join("SHA256SUMS")).expect("checksums");
    let sum = platform["sha256"].as_str().expect("a checksum");
    assert!(sums.contains(&format!("{sum}  {plugin}\n")), "{sums}");

    // The files that krew unpacks can be used, and so can those that it leaves in the archive.
    run(&out, "tar", &["xzf", plugin]);
    for (shell, file) in
        [("bash", "completions/kubectl-whatif.bash"), ("kubectl", "kubectl_complete-whatif")]
    {
        let printed = run(&out, "./kubectl-whatif", &["completion", shell]);
        assert_eq!(fs::read_to_string(out.join(file)).expect(file), printed);
    }
    assert!(out.join("LICENSE").exists());
    // Helm follows no links in an archive.
    let listed = run(&out, "tar", &["tvzf", &chart]);
    assert!(listed.contains("portcullis/files/alerts.yaml\n"), "{listed}");
    assert!(listed.contains("portcullis.dev_nodepolicyreports.yaml\n"), "{listed}");
    assert!(!listed.contains(" -> "), "{listed}");
}

/// The SBOM that `deploy/sbom.sh` prints.
fn sbom(arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&run(&root(), "deploy/sbom.sh", arguments)).expect("JSON")
}

/// The package URLs in an SBOM that begin with a prefix.
fn urls<'a>(sbom: &'a serde_json::Value, prefix: &str) -> BTreeSet<&'a str> {
    let components = sbom["components"].as_array().expect("components").iter();
    let components = components.chain([&sbom["metadata"]["component"]]);
    let urls = components.filter_map(|component| component["purl"].as_str());
    urls.filter(|url| url.starts_with(prefix)).collect()
}

#[test]
fn an_sbom_names_each_crate_of_its_program_with_its_dependencies() {
    for (program, package) in
        [("kubectl-whatif", "portcullis-whatif"), ("portcullis", "portcullis-controller")]
    {
        let sbom = sbom(&[program, "arm64"]);
        let tree = ["tree", "--locked", "--package", package, "--edges", "no-dev"];
        let format = ["--prefix", "none", "--target", "aarch64-unknown-linux-gnu"];
        let listed = run(&root(), env!("CARGO"), &[&tree[..], &format].concat());
        let words = listed.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let crates: BTreeSet<String> = words
            .map(|words| format!("pkg:cargo/{}@{}", words[0], words[1].trim_start_matches('v')))
            .collect();
        let named = urls(&sbom, "pkg:cargo/");
        assert_eq!(named, crates.iter().map(String::as_str).collect(), "{program}");
        assert!(crates.iter().any(|name| name.starts_with("pkg:cargo/policy-engine@")));
        // Each crate has a line, and each name in a line is a crate.
        let lines = sbom["dependencies"].as_array().expect("dependencies");
        let refs: BTreeSet<&str> = lines.iter().filter_map(|line| line["ref"].as_str()).collect();
        assert_eq!(refs, named);
        let needed = lines.iter().flat_map(|line| line["dependsOn"].as_array().expect("a list"));
        let needed: BTreeSet<&str> = needed.filter_map(serde_json::Value::as_str).collect();
        assert_eq!(named.difference(&needed).count(), 1, "only the program itself is not needed");
        assert!(needed.is_subset(&named));
    }
}

#[test]
fn the_sbom_of_an_image_names_its_packages_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let packages = directory.path().join("var/lib/dpkg/status.d");
    fs::create_dir_all(&packages).expect("a directory");
    for (name, version) in [("libc6", "2.36-9+deb12u14"), ("libgmp10", "2:6.2.1+dfsg1-1.1")] {
        let status = format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: arm64\nSource: other\n\
             Version: {version}\nDescription: a library\n Package: none\n"
        );
        fs::write(packages.join(name), status).expect("written");
    }
    let root = directory.path().to_str().expect("a path");
    let (image, program) = (sbom(&["portcullis", "arm64", root]), sbom(&["portcullis", "arm64"]));
    let packages = [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=arm64",
        "pkg:deb/debian/libgmp10@2%3A6.2.1%2Bdfsg1-1.1?arch=arm64",
    ];
    assert_eq!(urls(&image, "pkg:deb/"), packages.into());
    assert_eq!(urls(&image, "pkg:cargo/"), urls(&program, "pkg:cargo/"));
    assert_ne!(image["serialNumber"], program["serialNumber"]);
    assert_eq!(sbom(&["portcullis", "arm64", root]), image, "the same bytes each time");
}

#[test]
fn the_times_in_archives_are_those_of_the_commit() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = release(directory.path(), "out");
    let time = run(&root(), "git", &["log", "-1", "--format=%cd", "--date=format-local:%F %H:%M"]);
    for archive in ["kubectl-whatif-linux-amd64.tar.gz", &portcullis_chart()] {
        let listed = run(&out, "tar", &["tvzf", archive]);
        let others = listed.lines().filter(|line| !line.contains(time.trim_end()));
        assert_eq!(others.collect::<Vec<_>>(), Vec::<&str>::new(), "{archive}: not {time}");
    }
}

#[test]
fn the_workflow_names_only_what_exists() {
    let read = |name: &str| fs::read_to_string(root().join(name)).expect(name);
    let (workflow, makefile) = (read(".github/workflows/release.yml"), read("Makefile"));
    let targets: Vec<&str> =
        workflow.lines().filter_map(|line| line.trim().strip_prefix("- run: make ")).collect();
    assert_eq!(targets, ["release-check ARCH=arm64", "release-check"]);
    assert!(makefile.contains("\nrelease-check: release "));
    // Where `make release` writes, and what is pushed.
    assert!(makefile.contains(" target/dist\n") && workflow.contains("path: target/dist\n"));
    let dockerfile = read("deploy/Dockerfile");
    assert!(workflow.contains("file: deploy/Dockerfile\n"));
    assert!(workflow.contains("target: nftables,") && dockerfile.contains(" AS nftables\n"));
    // Both builds name the commit.
    assert!(
        makefile.contains("\nbuild release release-again: export PORTCULLIS_COMMIT = $(shell ")
    );
    assert!(dockerfile.contains("\nARG REVISION\nRUN PORTCULLIS_COMMIT=$REVISION deploy/build"));
    for argument in ["VERSION", "REVISION", "RUST_IMAGE", "DEBIAN_IMAGE"] {
        assert!(workflow.contains(&format!("            {argument}=$")), "{argument}");
        assert!(dockerfile.contains(&format!("ARG {argument}=")), "{argument}");
    }
}
