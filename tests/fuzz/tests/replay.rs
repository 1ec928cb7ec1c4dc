//! Each file of the corpus is read without a panic: what fuzzing found stays fixed.

use std::fs;
use std::path::Path;

use portcullis_fuzz::TARGETS;

#[test]
fn every_file_of_the_corpus_is_read_without_a_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let directories = fs::read_dir(&corpus).expect("it is there").count();
    assert_eq!(directories, TARGETS.len(), "a directory for each target");
    for (name, target) in TARGETS {
        let files = fs::read_dir(corpus.join(name)).expect(name);
        let mut read = 0;
        for file in files {
            let path = file.expect(name).path();
            // The test prints it if the target panics.
            println!("{}", path.display());
            target(&fs::read(&path).expect("it can be read"));
            read += 1;
        }
        assert!(read > 0, "{name} has no corpus");
    }
}
