//! The text of one file of libcni's cache → an [`Entry`]. Pure.
//!
//! libcni writes `<network>-<container>-<interface>` with the kind `cniCacheV1` after a plugin has
//! answered ADD, and removes it after DEL (`libcni/api.go`, `cacheAdd` and `cacheDel`). Fields that
//! are not used here can have any value.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Deserialize;

use crate::dataplane::interfaces::is_pod_address;

/// The kind of the format that is understood.
const KIND: &str = "cniCacheV1";

/// The name of a pod's interface that leads to its podIPs. containerd (go-cni), CRI-O (ocicni) and
/// cri-dockerd all call it so; `lo` and the networks that Multus adds have other names.
const PRIMARY: &str = "eth0";

/// The most interfaces, addresses and arguments that a result is read with.
const ITEMS_MAX: usize = 64;

/// The content of one file: the primary interface of one pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::node::attach) struct Entry {
    /// The name of the file.
    pub(in crate::node::attach) file: String,
    /// The namespace of the pod.
    pub(in crate::node::attach) namespace: String,
    /// The name of the pod.
    pub(in crate::node::attach) name: String,
    /// The uid of the pod; runtimes before containerd 1.6 and CRI-O 1.24 do not pass it.
    pub(in crate::node::attach) uid: Option<String>,
    /// The interfaces of the node that the result lists: the node's end of the pod's interface,
    /// and possibly a bridge.
    pub(in crate::node::attach) interfaces: Vec<String>,
    /// The addresses of the pod.
    pub(in crate::node::attach) addresses: BTreeSet<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    kind: String,
    if_name: String,
    #[serde(default)]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default)]
    result: Option<CniResult>,
}

#[derive(Deserialize)]
struct CniResult {
    #[serde(default)]
    interfaces: Option<Vec<ResultInterface>>,
    #[serde(default)]
    ips: Option<Vec<ResultIp>>,
    /// CNI 0.2.0 and earlier.
    #[serde(default)]
    ip4: Option<OldIp>,
    #[serde(default)]
    ip6: Option<OldIp>,
}

#[derive(Deserialize)]
struct ResultInterface {
    #[serde(default)]
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct ResultIp {
    address: String,
    #[serde(default)]
    interface: Option<usize>,
}

#[derive(Deserialize)]
struct OldIp {
    ip: String,
}

/// Parses one file. `None` if it does not describe the primary interface of a pod, but another
/// network of a pod, or a container that Kubernetes did not create.
///
/// # Errors
/// When the text is not valid; the error is the reason.
pub(super) fn parse(file: &str, text: &[u8]) -> Result<Option<Entry>, String> {
    let read: File = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if read.kind != KIND {
        return Err(format!("its kind is {:?}, not {KIND}", shortened(&read.kind)));
    }
    if read.if_name != PRIMARY {
        return Ok(None);
    }
    let arguments = bounded("cniArgs", read.cni_args)?;
    let argument = |wanted: &str| {
        let found = arguments.iter().find(|(key, _)| key == wanted);
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    let (namespace, name) = (argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME"));
    let (Some(namespace), Some(name)) = (namespace, name) else { return Ok(None) };
    let uid = argument("K8S_POD_UID");
    for (what, value, bytes) in [
        ("K8S_POD_NAMESPACE", Some(&namespace), 63),
        ("K8S_POD_NAME", Some(&name), 253),
        ("K8S_POD_UID", uid.as_ref(), 128),
    ] {
        if value.is_some_and(|value| !is_plain(value, bytes)) {
            return Err(format!("{what} is not a name that Kubernetes allows"));
        }
    }
    let result = read.result.ok_or("it has no result")?;
    let interfaces = bounded("interfaces", result.interfaces)?;
    let mut addresses = BTreeSet::new();
    for (number, ip) in bounded("ips", result.ips)?.into_iter().enumerate() {
        if let Some(index) = ip.interface {
            let Some(interface) = interfaces.get(index) else {
                return Err(format!("ips[{number}] names interface {index}, which is not listed"));
            };
            // An address of the bridge or of the node's end.
            if is_of_node(interface) {
                continue;
            }
        }
        addresses.insert(address(&ip.address)?);
    }
    for old in [result.ip4, result.ip6].into_iter().flatten() {
        addresses.insert(address(&old.ip)?);
    }
    addresses.retain(|address| is_pod_address(*address));
    let of_node = interfaces.into_iter().filter(is_of_node);
    let interfaces = of_node.map(|interface| interface.name).collect();
    Ok(Some(Entry { file: file.to_owned(), namespace, name, uid, interfaces, addresses }))
}

/// Whether an interface of a result is on the node. Some plugins list the pod's own interface
/// without its namespace, and the node may have another interface of that name.
fn is_of_node(interface: &ResultInterface) -> bool {
    interface.sandbox.is_empty() && interface.name != PRIMARY
}

fn bounded<T>(what: &str, items: Option<Vec<T>>) -> Result<Vec<T>, String> {
    let items = items.unwrap_or_default();
    if items.len() > ITEMS_MAX {
        return Err(format!("it has {} {what}, more than {ITEMS_MAX}", items.len()));
    }
    Ok(items)
}

/// The address in a text with a prefix length, such as `10.1.0.5/24`.
fn address(text: &str) -> Result<IpAddr, String> {
    let network = text.parse::<ipnet::IpNet>();
    let network = network.map_err(|_| format!("{:?} is not an address", shortened(text)))?;
    Ok(network.addr().to_canonical())
}

/// Whether a text has only characters of names and uids, and at most `bytes_max` bytes.
fn is_plain(text: &str, bytes_max: usize) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    text.len() <= bytes_max && text.bytes().all(is_allowed)
}

/// The beginning of a text of unknown length, for a message.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of containerd 1.7 with the bridge plugin, without the config.
    const BRIDGE: &str = r#"{"kind":"cniCacheV1","containerId":"4f1d","config":"e30=","ifName":"eth0",
        "networkName":"portcullis","netns":"/var/run/netns/cni-1",
        "cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","db-0"],
        ["K8S_POD_INFRA_CONTAINER_ID","4f1d"],["K8S_POD_UID","0b2e8f0a-9a53-4c0c-8f3e-5d0f8a1f9d11"]],
        "capabilityArgs":{"dns":{},"portMappings":[]},
        "result":{"cniVersion":"1.0.0","dns":{},
        "interfaces":[{"mac":"7e:8f:00:00:00:01","name":"cni0"},{"mac":"7e:8f:00:00:00:02","name":"veth1a2b3c4d"},
        {"mac":"7e:8f:00:00:00:03","name":"eth0","sandbox":"/var/run/netns/cni-1"}],
        "ips":[{"address":"10.1.0.5/24","gateway":"10.1.0.1","interface":2},
        {"address":"fd00:1::5/64","gateway":"fd00:1::1","interface":2}],"routes":[{"dst":"0.0.0.0/0"}]}}"#;

    fn bridge() -> Entry {
        parse("f", BRIDGE.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn a_file_names_the_pod_its_interface_and_its_addresses() {
        let expected = Entry {
            file: "f".to_owned(),
            namespace: "shop".to_owned(),
            name: "db-0".to_owned(),
            uid: Some("0b2e8f0a-9a53-4c0c-8f3e-5d0f8a1f9d11".to_owned()),
            interfaces: vec!["cni0".to_owned(), "veth1a2b3c4d".to_owned()],
            addresses: ["10.1.0.5", "fd00:1::5"].map(|ip| ip.parse().unwrap()).into(),
        };
        assert_eq!(bridge(), expected);
    }

    #[test]
    fn results_of_other_plugins_and_versions() {
        let check = |result: &str, interfaces: &[&str], addresses: &[&str]| {
            let text = BRIDGE.split_once("\"result\":").unwrap().0.to_owned();
            let entry = parse("f", format!("{text}\"result\":{result}}}").as_bytes());
            let entry = entry.unwrap().unwrap();
            assert_eq!(entry.interfaces, interfaces, "{result}");
            let expected = addresses.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(entry.addresses, expected, "{result}");
        };
        // Calico: only the node's end, and no index.
        check(
            r#"{"interfaces":[{"name":"cali0"}],"ips":[{"address":"10.1.0.5/32"}]}"#,
            &["cali0"],
            &["10.1.0.5"],
        );
        // AWS: a third interface that is on neither side.
        check(
            r#"{"interfaces":[{"name":"eni0"},{"name":"eth0","sandbox":"/n"},{"name":"dummy0","mac":"0","sandbox":"0"}],
                "ips":[{"version":"4","interface":1,"address":"10.1.0.5/32"}]}"#,
            &["eni0"],
            &["10.1.0.5"],
        );
        // Azure: the pod's interface without its namespace.
        check(
            r#"{"interfaces":[{"name":"eth0"}],"ips":[{"interface":0,"address":"10.1.0.5/32"}]}"#,
            &[],
            &["10.1.0.5"],
        );
        // CNI 0.2.0.
        check(
            r#"{"ip4":{"ip":"10.1.0.5/24"},"ip6":{"ip":"fd00::5/64"}}"#,
            &[],
            &["10.1.0.5", "fd00::5"],
        );
        // An address of the bridge, and addresses that every interface may have.
        check(
            r#"{"interfaces":[{"name":"cni0"},{"name":"eth0","sandbox":"/n"}],
                "ips":[{"interface":0,"address":"10.1.0.1/24"},{"interface":1,"address":"fe80::1/64"}]}"#,
            &["cni0"],
            &[],
        );
        check(r#"{"interfaces":null,"ips":null}"#, &[], &[]);
    }

    #[test]
    fn what_is_not_a_pods_primary_interface_is_passed_over() {
        for (from, to) in [
            (r#""ifName":"eth0""#, r#""ifName":"lo""#),
            (r#""ifName":"eth0""#, r#""ifName":"net1""#),
            (r#"["K8S_POD_NAME","db-0"],"#, ""),
            (r#"["K8S_POD_NAMESPACE","shop"],"#, ""),
        ] {
            assert!(BRIDGE.contains(from));
            assert_eq!(parse("f", BRIDGE.replace(from, to).as_bytes()), Ok(None), "{to}");
        }
    }

    #[test]
    fn the_uid_may_be_missing() {
        let text = BRIDGE.replace("K8S_POD_UID", "SOMETHING_ELSE");
        assert_eq!(parse("f", text.as_bytes()), Ok(Some(Entry { uid: None, ..bridge() })));
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_is_an_error() {
        for end in 0..BRIDGE.len() {
            assert!(parse("f", &BRIDGE.as_bytes()[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn a_byte_that_is_wrong_anywhere_is_no_panic() {
        for place in 0..BRIDGE.len() {
            for byte in [0, b'"', b'}', b'9', 0xff] {
                let mut text = BRIDGE.as_bytes().to_vec();
                text[place] = byte;
                let _ = parse("f", &text);
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let many = format!("[{}]", vec![r#"{"address":"10.1.0.5/24"}"#; ITEMS_MAX + 1].join(","));
        let long = format!("\"K8S_POD_NAME\",\"{}\"", "a".repeat(254));
        let ips =
            &BRIDGE[BRIDGE.find("[{\"address\"").unwrap()..BRIDGE.find(",\"routes\"").unwrap()];
        for (from, to, expected) in [
            ("cniCacheV1", "cniCacheV9", "its kind is \"cniCacheV9\", not cniCacheV1"),
            ("10.1.0.5/24", "10.1.0.500/24", "\"10.1.0.500/24\" is not an address"),
            ("10.1.0.5/24", "10.1.0.5", "\"10.1.0.5\" is not an address"),
            (
                "\"interface\":2}",
                "\"interface\":7}",
                "ips[0] names interface 7, which is not listed",
            ),
            ("\"interface\":2}", "\"interface\":-1}", "invalid value"),
            (
                "\"K8S_POD_NAME\",\"db-0\"",
                "\"K8S_POD_NAME\",\"db/0\"",
                "K8S_POD_NAME is not a name",
            ),
            ("\"K8S_POD_NAME\",\"db-0\"", &long, "K8S_POD_NAME is not a name"),
            ("\"K8S_POD_NAME\",\"db-0\"", "\"K8S_POD_NAME\",1", "invalid type"),
            ("\"result\"", "\"other\"", "it has no result"),
            ("\"name\":\"cni0\"", "\"name\":[]", "invalid type"),
            ("\"ifName\":\"eth0\",", "", "missing field `ifName`"),
            ("\"kind\":\"cniCacheV1\",", "", "missing field `kind`"),
            (ips, &many, "it has 65 ips, more than 64"),
            (ips, &format!("{}{}", "[".repeat(9999), "]".repeat(9999)), "invalid type"),
            ("\"dns\":{}", &format!("\"dns\":{}", "[".repeat(9999)), "expected value"),
        ] {
            assert!(BRIDGE.contains(from), "{from}");
            let error = parse("f", BRIDGE.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{error}, expected {expected}");
        }
        // The result alone, as libcni wrote it before version 0.7.
        let error = parse("f", br#"{"cniVersion":"0.3.1","ips":[]}"#).unwrap_err();
        assert!(error.contains("missing field `kind`"), "{error}");
    }
}
