//! What is generated from our types is what is committed.

#[path = "../examples/generate-crds.rs"]
#[expect(dead_code, reason = "its `main` is not run here")]
mod generate_crds;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

type Tested = Result<(), Box<dyn std::error::Error>>;

#[test]
fn the_manifests_of_our_kinds_are_the_generated_ones() -> Tested {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
    let mut expected = BTreeSet::new();
    for (name, text) in generate_crds::manifests()? {
        let committed = fs::read_to_string(directory.join(&name)).unwrap_or_default();
        assert!(committed == text, "deploy/crds/{name} is not what the types say: make generate");
        expected.insert(name);
    }
    for entry in fs::read_dir(&directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let generated = name.starts_with("portcullis.dev_");
        assert!(!generated || expected.contains(&name), "deploy/crds/{name} has no type any more");
    }
    Ok(())
}

#[test]
fn generating_twice_gives_the_same_bytes() -> Tested {
    assert_eq!(generate_crds::manifests()?, generate_crds::manifests()?);
    Ok(())
}

#[test]
fn every_field_of_our_kinds_is_described_and_bounded() -> Tested {
    for crd in portcullis_crds::api::custom_resource_definitions() {
        for version in &crd.spec.versions {
            let schema =
                version.schema.as_ref().and_then(|found| found.open_api_v3_schema.as_ref());
            let schema = serde_json::to_value(schema.ok_or("a version without a schema")?)?;
            let mut faults = Vec::new();
            check(&schema, &crd.spec.names.kind, &mut faults);
            assert!(faults.is_empty(), "{faults:#?}");
        }
    }
    Ok(())
}

/// Collects fields without a description, and lists and texts without a limit.
fn check(schema: &serde_json::Value, path: &str, faults: &mut Vec<String>) {
    match schema["type"].as_str() {
        Some("array") if schema["maxItems"].is_null() => faults.push(format!("{path}: maxItems")),
        Some("array") if schema["x-kubernetes-list-type"].is_null() => {
            faults.push(format!("{path}: x-kubernetes-list-type"));
        }
        Some("string")
            if ["maxLength", "enum", "format"].iter().all(|limit| schema[limit].is_null()) =>
        {
            faults.push(format!("{path}: maxLength"));
        }
        Some(_) => {}
        None if schema["x-kubernetes-int-or-string"] == true => {
            if schema["maxLength"].is_null() {
                faults.push(format!("{path}: maxLength"));
            }
        }
        None => faults.push(format!("{path}: type")),
    }
    if schema["items"].is_object() {
        check(&schema["items"], &format!("{path}[]"), faults);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if field["description"].as_str().is_none_or(str::is_empty) {
            faults.push(format!("{path}: description"));
        }
        check(field, &path, faults);
    }
}
