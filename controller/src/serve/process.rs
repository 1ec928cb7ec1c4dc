//! `process_*` metrics, with the names of Prometheus' own clients: read from `/proc/self` at each
//! scrape.

use std::fmt;
use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Reads the metrics of this process.
#[derive(Debug)]
pub struct ProcessMetrics;

/// The values from `/proc/self`.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Process {
    cpu_seconds: f64,
    start_seconds: f64,
    threads: i64,
    virtual_bytes: i64,
    resident_bytes: i64,
}

impl Process {
    /// Parses the texts of `/proc/self/stat` and `/proc/stat`; `None` if their format is unknown.
    fn read(stat: &str, kernel: &str, ticks: f64, page_bytes: i64) -> Option<Self> {
        // proc(5): the name of the program is in parentheses, and can contain anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // The first field here is the third of proc(5).
        let number = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        let whole = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
        let boot = kernel.lines().find_map(|line| line.strip_prefix("btime "))?;
        let boot: f64 = boot.trim().parse().ok()?;
        Some(Self {
            cpu_seconds: (number(14)? + number(15)?) / ticks,
            threads: whole(20)?,
            start_seconds: boot + number(22)? / ticks,
            virtual_bytes: whole(23)?,
            resident_bytes: whole(24)?.saturating_mul(page_bytes),
        })
    }

    fn of_self() -> Option<Self> {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok()??;
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok()??;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let kernel = fs::read_to_string("/proc/stat").ok()?;
        #[expect(clippy::cast_precision_loss, reason = "a hundred ticks a second")]
        Self::read(&stat, &kernel, ticks as f64, page_bytes)
    }
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(process) = Process::of_self() else { return Ok(()) };
        let encoder = &mut encoder;
        let bytes = Some(&Unit::Bytes);
        gauge(
            encoder,
            "process_resident_memory",
            "Resident memory",
            bytes,
            process.resident_bytes,
        )?;
        gauge(encoder, "process_virtual_memory", "Virtual memory", bytes, process.virtual_bytes)?;
        gauge(encoder, "process_threads", "Threads", None, process.threads)?;
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            let open = i64::try_from(open.count()).unwrap_or(i64::MAX);
            gauge(encoder, "process_open_fds", "Open file descriptors", None, open)?;
        }
        if let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            gauge(encoder, "process_max_fds", "Limit of open file descriptors", None, limit)?;
        }
        let seconds = Some(&Unit::Seconds);
        let help = "When the process was started, since the Unix epoch";
        let family =
            encoder.encode_descriptor("process_start_time", help, seconds, MetricType::Gauge)?;
        ConstGauge::new(process.start_seconds).encode(family)?;
        let help = "CPU time that the process has used";
        let family =
            encoder.encode_descriptor("process_cpu", help, seconds, MetricType::Counter)?;
        ConstCounter::new(process.cpu_seconds).encode(family)
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: i64,
) -> Result<(), fmt::Error> {
    let family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    ConstGauge::new(value).encode(family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_program_can_contain_anything() {
        let stat = "7 (a) b) R 1 7 7 0 -1 4194304 95 0 0 0 150 50 0 0 20 0 3 0 1000 8192 2 \
                    18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0\n";
        let kernel = "cpu  1 2 3\nbtime 1700000000\nprocesses 9\n";
        let read = Process::read(stat, kernel, 100.0, 4096).unwrap();
        let expected = Process {
            cpu_seconds: 2.0,
            start_seconds: 1_700_000_010.0,
            threads: 3,
            virtual_bytes: 8192,
            resident_bytes: 8192,
        };
        assert_eq!(read, expected);
        assert_eq!(Process::read("7 (a", kernel, 100.0, 4096), None);
    }

    #[test]
    fn this_process_has_memory_and_threads() {
        let process = Process::of_self().unwrap();
        assert!(process.resident_bytes > 0 && process.threads > 0 && process.start_seconds > 0.0);
    }
}
