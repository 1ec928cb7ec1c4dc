//! Prints what a source says: `cargo run --example watch -- dir:PATH`.

use std::time::Instant;

use portcullis_controller::watch::{Event, Source};
use tokio::sync::mpsc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flag = std::env::args().nth(1).ok_or("usage: watch dir:PATH")?;
    let (sender, mut events) = mpsc::channel(64);
    let started = Instant::now();
    Source::parse(&flag)?.start(sender)?;
    while let Some(event) = events.recv().await {
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        match event {
            Event::Changes(changes) => {
                println!("{milliseconds:.3} ms: {} changes", changes.len());
            }
            Event::Synced => println!("{milliseconds:.3} ms: synced"),
            Event::Diagnostics(file, told) if told.is_empty() => println!("{file}: clean"),
            Event::Diagnostics(_, told) => told.iter().for_each(|told| println!("{told}")),
        }
    }
    Ok(())
}
