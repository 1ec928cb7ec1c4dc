//! Real directories and real inotify; every wait is for a condition, with a limit.

use std::os::unix::fs::symlink;

use policy_engine::model::Change;
use portcullis_crds::diagnostic::Diagnostic;
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// A watched directory, and the events that it has sent so far.
struct Watched {
    dir: TempDir,
    root: PathBuf,
    events: Receiver<Event>,
    /// The enforced policies, as `name:port`.
    policies: BTreeSet<String>,
    reported: BTreeMap<String, Vec<Diagnostic>>,
    /// How many batches were received.
    batches: usize,
}

fn policy(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{ingress: [{{ports: [{{port: {port}}}]}}]}}\n"
    )
}

impl Watched {
    /// Watches `manifests` in a new directory, after `prepare`.
    async fn new(prepare: impl Fn(&Path)) -> Self {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("manifests");
        fs::create_dir(&root).unwrap();
        prepare(&root);
        let (sender, events) = mpsc::channel(16);
        start(&root, sender).unwrap();
        let (policies, reported) = (BTreeSet::new(), BTreeMap::new());
        let mut watched = Self { dir, root, events, policies, reported, batches: 0 };
        while !watched.next().await {}
        watched
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Takes one event; returns whether it was `Synced`.
    async fn next(&mut self) -> bool {
        match timeout(LIMIT, self.events.recv()).await.unwrap().unwrap() {
            Event::Synced | Event::SyncedInPart => return true,
            Event::Diagnostics(file, reported) => {
                self.reported.insert(file.to_string(), reported);
            }
            Event::Changes(changes) => {
                assert!(!changes.is_empty());
                self.batches += 1;
                for object in changes {
                    if let Change::Policy(key, policy) = object.change {
                        let prefix = format!("{}:", key.name);
                        self.policies.retain(|shown| !shown.starts_with(&prefix));
                        self.policies.extend(policy.map(|policy| {
                            let text = format!("{policy:?}");
                            let port = text.split("first: ").nth(1).unwrap();
                            prefix + port.split(',').next().unwrap()
                        }));
                    }
                }
            }
        }
        false
    }

    /// Waits until exactly these policies are enforced; no other state may come in between.
    async fn becomes(&mut self, expected: &[&str]) {
        let before = self.policies.clone();
        let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
        while self.policies != expected {
            assert_eq!(self.policies, before, "on the way to {expected:?}");
            self.next().await;
        }
    }

    /// Waits until these policies are enforced, however many steps it takes.
    async fn reaches(&mut self, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
        while self.policies != expected {
            self.next().await;
        }
    }

    /// Waits until the file `name` has diagnostics, or has none, and returns the first one.
    async fn reports(&mut self, name: &str, has_diagnostics: bool) -> String {
        let file = self.path(name).to_string_lossy().trim_end_matches('/').to_owned();
        loop {
            let reported = self.reported.get(&file).map(Vec::as_slice).unwrap_or_default();
            if reported.is_empty() != has_diagnostics {
                return reported.first().map(ToString::to_string).unwrap_or_default();
            }
            self.next().await;
        }
    }

    /// Waits until a marker file is read: all changes before it have been read then.
    async fn nothing_happened(&mut self) {
        let before = self.policies.clone();
        self.write("marker.yaml", &policy("marker", 1));
        while !self.policies.contains("marker:1") {
            self.next().await;
        }
        fs::remove_file(self.path("marker.yaml")).unwrap();
        while self.policies.contains("marker:1") {
            self.next().await;
        }
        assert_eq!(self.policies, before);
    }
}

async fn empty() -> Watched {
    Watched::new(|_| {}).await
}

#[tokio::test]
async fn what_is_there_at_the_start_comes_as_one_batch_before_synced() {
    let watched = Watched::new(|root| {
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/x.yml"), policy("x", 1)).unwrap();
        fs::write(root.join("y.json"), "{\"kind\": \"List\", \"items\": []}").unwrap();
        fs::write(root.join("z.yaml"), policy("z", 1)).unwrap();
        fs::write(root.join("z.txt"), policy("text", 1)).unwrap();
        fs::write(root.join(".z.yaml"), policy("hidden", 1)).unwrap();
    })
    .await;
    assert_eq!(watched.policies, ["x:1".to_owned(), "z:1".to_owned()].into());
    assert_eq!(watched.batches, 1);
}

#[tokio::test]
async fn a_missing_directory_is_an_error() {
    let (sender, _events) = mpsc::channel(1);
    let error = start(Path::new("/nonexistent/dir"), sender).unwrap_err();
    assert!(matches!(error, StartError::NotADirectory { .. }), "{error}");
}

#[tokio::test]
async fn files_that_are_written_changed_and_deleted_are_noticed() {
    let mut watched = empty().await;
    watched.write("a.yaml", &policy("a", 1));
    watched.becomes(&["a:1"]).await;
    watched.write("a.yaml", &policy("a", 2));
    watched.becomes(&["a:2"]).await;
    fs::remove_file(watched.path("a.yaml")).unwrap();
    watched.becomes(&[]).await;
}

#[tokio::test]
async fn a_file_is_not_read_before_its_writer_closes_it() {
    use std::io::Write as _;
    let mut watched = empty().await;
    watched.write("a.yaml", &policy("a", 1));
    watched.becomes(&["a:1"]).await;
    let mut new = fs::File::create(watched.path("b.yaml")).unwrap();
    let mut old = fs::File::create(watched.path("a.yaml")).unwrap();
    for file in [&mut new, &mut old] {
        file.write_all(policy("half", 1).as_bytes()).unwrap();
        file.sync_all().unwrap();
    }
    watched.nothing_happened().await;
    drop(new);
    watched.becomes(&["a:1", "half:1"]).await;
}

#[tokio::test]
async fn renames_within_the_directory_change_nothing_and_across_it_do() {
    let mut watched = empty().await;
    let outside = watched.dir.path().join("outside.yaml");
    fs::write(&outside, policy("a", 1)).unwrap();
    fs::rename(&outside, watched.path("a.yaml")).unwrap();
    watched.becomes(&["a:1"]).await;
    for round in 0..50 {
        let (from, to) = if round % 2 == 0 { ("a.yaml", "b.yaml") } else { ("b.yaml", "a.yaml") };
        fs::rename(watched.path(from), watched.path(to)).unwrap();
    }
    watched.nothing_happened().await;
    fs::rename(watched.path("a.yaml"), &outside).unwrap();
    watched.becomes(&[]).await;
}

#[tokio::test]
async fn an_editor_that_renames_the_file_away_first_never_opens_it() {
    let mut watched = empty().await;
    watched.write("a.yaml", &policy("a", 1));
    watched.becomes(&["a:1"]).await;
    fs::rename(watched.path("a.yaml"), watched.path("a.yaml~")).unwrap();
    watched.nothing_happened().await;
    watched.write("a.yaml", &policy("a", 2));
    fs::remove_file(watched.path("a.yaml~")).unwrap();
    watched.becomes(&["a:2"]).await;
    fs::rename(watched.path("a.yaml"), watched.path("a.yaml.disabled")).unwrap();
    watched.becomes(&[]).await;
}

#[tokio::test]
async fn directories_are_followed_when_they_are_created_moved_and_removed() {
    let mut watched = empty().await;
    fs::create_dir_all(watched.path("x/y")).unwrap();
    watched.write("x/y/a.yaml", &policy("a", 1));
    watched.becomes(&["a:1"]).await;
    watched.write("x/y/a.yaml", &policy("a", 2));
    watched.becomes(&["a:2"]).await;
    fs::rename(watched.path("x"), watched.path("z")).unwrap();
    watched.nothing_happened().await;
    watched.write("z/y/a.yaml", &policy("a", 3));
    watched.becomes(&["a:3"]).await;
    let outside = watched.dir.path().join("outside");
    fs::rename(watched.path("z"), &outside).unwrap();
    watched.becomes(&[]).await;
    fs::write(outside.join("y/a.yaml"), policy("a", 4)).unwrap();
    watched.nothing_happened().await;
    fs::rename(&outside, watched.path("z")).unwrap();
    watched.becomes(&["a:4"]).await;
    fs::remove_dir_all(watched.path("z")).unwrap();
    watched.becomes(&[]).await;
}

#[tokio::test]
async fn a_config_map_volume_changes_as_a_whole() {
    let version = |root: &Path, number: u16| {
        let data = root.join(format!("..v{number}"));
        fs::create_dir(&data).unwrap();
        for name in ["a", "b"] {
            fs::write(data.join(format!("{name}.yaml")), policy(name, number)).unwrap();
        }
        symlink(format!("..v{number}"), root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    let mut watched = Watched::new(|root| {
        version(root, 1);
        for name in ["a.yaml", "b.yaml"] {
            symlink(format!("..data/{name}"), root.join(name)).unwrap();
        }
    })
    .await;
    watched.becomes(&["a:1", "b:1"]).await;
    version(&watched.root, 2);
    fs::remove_dir_all(watched.path("..v1")).unwrap();
    watched.becomes(&["a:2", "b:2"]).await;
}

#[tokio::test]
async fn a_link_to_a_file_is_followed_and_to_a_directory_is_reported() {
    let mut watched = empty().await;
    let outside = watched.dir.path().join("outside.yaml");
    fs::write(&outside, policy("a", 1)).unwrap();
    symlink(&outside, watched.path("link.yaml")).unwrap();
    watched.becomes(&["a:1"]).await;
    fs::hard_link(&outside, watched.path("hard.yaml")).unwrap();
    watched.reports("hard.yaml", true).await;
    fs::remove_file(watched.path("link.yaml")).unwrap();
    watched.reports("hard.yaml", false).await;
    symlink(watched.dir.path(), watched.path("dir")).unwrap();
    assert!(watched.reports("dir", true).await.contains("not followed"));
    symlink("nowhere", watched.path("dangling.yaml")).unwrap();
    assert!(watched.reports("dangling.yaml", true).await.contains("cannot be opened"));
    watched.becomes(&["a:1"]).await;
}

#[tokio::test]
async fn a_file_that_becomes_unreadable_keeps_its_last_good_state() {
    let mut watched = empty().await;
    watched.write("a.yaml", &policy("a", 1));
    watched.becomes(&["a:1"]).await;
    watched.write("a.yaml", "a: [");
    watched.reports("a.yaml", true).await;
    watched.becomes(&["a:1"]).await;
    watched.write("a.yaml", "a: \u{1}");
    while !watched.reports("a.yaml", true).await.contains("control characters") {
        watched.next().await;
    }
    watched.becomes(&["a:1"]).await;
    watched.write("a.yaml", &policy("a", 2));
    watched.becomes(&["a:2"]).await;
    watched.reports("a.yaml", false).await;
}

#[tokio::test]
async fn a_directory_that_is_removed_keeps_its_objects_until_it_exists_again() {
    let mut watched = empty().await;
    watched.write("a.yaml", &policy("a", 1));
    watched.write("b.yaml", &policy("b", 1));
    watched.reaches(&["a:1", "b:1"]).await;
    let elsewhere = watched.dir.path().join("elsewhere");
    fs::rename(&watched.root, &elsewhere).unwrap();
    assert!(watched.reports("", true).await.contains("the directory was removed"));
    watched.becomes(&["a:1", "b:1"]).await;
    let new = watched.dir.path().join("new");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("a.yaml"), policy("a", 2)).unwrap();
    fs::rename(&new, &watched.root).unwrap();
    watched.becomes(&["a:2"]).await;
    watched.reports("", false).await;
    watched.write("a.yaml", &policy("a", 3));
    watched.becomes(&["a:3"]).await;
}

#[tokio::test]
async fn many_files_become_few_batches() {
    let mut watched = empty().await;
    let names: Vec<String> = (0..500).map(|number| format!("p{number}")).collect();
    // The test takes no events meanwhile: the channel fills, and further changes become one batch.
    for name in &names {
        watched.write(&format!("{name}.yaml"), &policy(name, 1));
    }
    let expected: Vec<String> = names.iter().map(|name| format!("{name}:1")).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    watched.reaches(&expected).await;
    assert!(watched.batches <= 20, "{}", watched.batches);

    let outside = watched.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    for name in &names {
        fs::rename(watched.path(&format!("{name}.yaml")), outside.join(format!("{name}.yaml")))
            .unwrap();
    }
    watched.reaches(&[]).await;
    fs::rename(&outside, watched.path("inside")).unwrap();
    watched.becomes(&expected).await;
}

#[tokio::test]
async fn after_lost_signals_everything_is_read_again() {
    // The test takes no events: the thread is blocked while signals exceed their limit.
    let mut watched = empty().await;
    for round in 0..20 {
        watched.write("a.yaml", &policy("a", round + 1));
        watched.write("b.yaml", &policy("b", round + 1));
    }
    for _ in 0..=MAX_SIGNALS {
        drop(fs::File::create(watched.path("noise")).unwrap());
    }
    watched.write("last.yaml", &policy("last", 1));
    watched.reaches(&["a:20", "b:20", "last:1"]).await;
}
