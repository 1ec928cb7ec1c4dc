//! What a program serves at `/metrics`, and the series that Prometheus makes of two scrapes.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::promtool::MINUTES;

pub(crate) const METRICS: u16 = 7002;
/// How many minutes the state before a fault lasts.
const BEFORE: usize = 5;
/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_mins(1);

/// A series of a test: its name with labels, and its values in the notation of promtool.
pub(crate) type Series = (String, String);
/// The values of a scrape, by series.
pub(crate) type Scrape = BTreeMap<String, String>;

/// Scrapes the program that serves on this port of the loopback address.
fn scrape(port: u16) -> Result<Scrape> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.rsplit_once(' '));
    Ok(pairs.map(|(series, value)| (series.to_owned(), value.to_owned())).collect())
}

/// Scrapes until the series has a value above `least`.
pub(crate) fn wait_for(series: &str, least: f64) -> Result<Scrape> {
    let began = Instant::now();
    loop {
        let found = scrape(METRICS);
        let value = found.as_ref().ok().and_then(|scrape| scrape.get(series)?.parse().ok());
        if let (Ok(found), true) = (found, value.is_some_and(|value: f64| value > least)) {
            return Ok(found);
        }
        ensure!(began.elapsed() < PATIENCE, "{series} is {value:?}, and not above {least}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The labels of the scrape configuration in docs/operations.md.
pub(crate) fn labelled(series: &str, pod: &str) -> String {
    let target =
        format!("job=\"portcullis\",pod=\"{pod}\",node=\"n2\",instance=\"192.0.2.2:9467\"");
    match series.strip_suffix('}') {
        Some(series) => format!("{series},{target}}}"),
        None => format!("{series}{{{target}}}"),
    }
}

/// The series of a target: one scrape for five minutes, and then another one.
pub(crate) fn series(pod: &str, before: &Scrape, during: &Scrape) -> Vec<Series> {
    let value = |scrape: &Scrape, name: &str, minutes: usize| {
        let value = scrape.get(name).map_or("_", String::as_str);
        format!("{value}x{}", minutes - 1)
    };
    let names = before.keys().chain(during.keys().filter(|name| !before.contains_key(*name)));
    let series = names.map(|name| {
        let (first, then) =
            (value(before, name, BEFORE), value(during, name, MINUTES + 1 - BEFORE));
        (labelled(name, pod), format!("{first} {then}"))
    });
    series.chain([up(pod, &format!("1x{MINUTES}"))]).collect()
}

/// Whether the target answers, which Prometheus finds out itself.
pub(crate) fn up(pod: &str, values: &str) -> Series {
    (labelled("up", pod), values.to_owned())
}
