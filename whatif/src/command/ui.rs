//! `ui`: a live page at 127.0.0.1, until Ctrl-C.

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use tokio::net::TcpListener;

use super::{Question, list, status};
use crate::YES;
use crate::args::Ui;
use crate::output::page::cluster;
use crate::output::status::Status;
use crate::source::agents::{self, News};
use crate::source::connection::Connection;
use crate::ui::feed::Feed;
use crate::ui::server::{Map, Server};

/// The least time between two reads of the cluster. If a read is slow, the time is ten times as
/// long as it.
const READ_PERIOD: Duration = Duration::from_secs(2);
/// How long to wait before the agents are listed again after a failure.
const RETRY_PERIOD: Duration = Duration::from_secs(5);

pub(super) fn run(args: Ui, out: &mut dyn Write) -> Result<u8> {
    if let Some(flag) = args.from.manifest_flag() {
        bail!("{flag} reads manifests, and the page shows what the agents of a live cluster do");
    }
    let connect = || Ok::<_, anyhow::Error>(Connection::new(&args.from)?.without_progress());
    let (for_status, for_denials) = (connect()?, connect()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start")?;
    let place = (Ipv4Addr::LOCALHOST, args.port);
    let listener = runtime.block_on(TcpListener::bind(place));
    let listener =
        listener.with_context(|| format!("failed to listen at 127.0.0.1:{}", args.port))?;
    let port = listener.local_addr()?.port();

    let feed = Arc::new(Feed::new(cluster(&args.from)));
    let args = Arc::new(args);
    let of_map = Arc::clone(&args);
    let map: Map = Box::new(move || {
        let question = Question::read(&of_map.from)?;
        question.write_notes(&[])?;
        let mut page = Vec::new();
        list::map_page(&question, &of_map.from, &mut page)?;
        Ok(page)
    });
    let server = Arc::new(Server::new(port, Arc::clone(&feed), map)?);
    let (of_status, to_feed) = (Arc::clone(&args), Arc::clone(&feed));
    thread::spawn(move || read_status(&for_status, &of_status, &to_feed));
    let of_denials = Arc::clone(&args);
    thread::spawn(move || follow_denials(&for_denials, &of_denials, &feed));
    // The page reads what is behind the `#`, and never sends it.
    let filter = args.from.namespace.as_ref().map(|name| format!("#{name}/"));
    writeln!(out, "{}{}", server.url(), filter.unwrap_or_default())?;
    out.flush()?;
    runtime.block_on(server.serve(listener));
    Ok(YES)
}

/// Reads what is applied where, again and again while a page asks.
fn read_status(connection: &Connection, args: &Ui, feed: &Feed) {
    loop {
        feed.wait_until_asked();
        let began = Instant::now();
        let pause = match status::read(connection, &args.from, None) {
            Ok(answer) => {
                let found = Status::new(&answer.policies, &answer.nodes, &answer.notes);
                match serde_json::to_value(found) {
                    Ok(found) => feed.status(found, now()),
                    Err(error) => feed.status_failure(error.to_string()),
                }
                began.elapsed() * 10
            }
            Err(error) => {
                feed.status_failure(format!("{error:#}"));
                Duration::ZERO
            }
        };
        thread::sleep(pause.max(READ_PERIOD));
    }
}

/// Passes on what the agents log.
fn follow_denials(connection: &Connection, args: &Ui, feed: &Feed) {
    let began = Instant::now();
    loop {
        let since = args.since + began.elapsed();
        let ended = agents::follow(connection, &args.from.own_namespace, since, |news| {
            match news {
                News::Record(record) => feed.denial(*record),
                News::Failed(failure) => feed.failure(failure, now()),
            }
            Ok(())
        });
        if let Err(error) = ended {
            feed.failure(format!("{error:#}"), now());
        }
        thread::sleep(RETRY_PERIOD);
    }
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
