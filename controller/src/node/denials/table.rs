//! Which denials were reported and which are due: the first packet at once, later ones as counts.
//!
//! ```text
//! packet ─► known: counted             reported: at once when new,
//!           new: reported                when policies changed and another policy denies it,
//!           no room: counted by kind     once a period while packets arrive;
//!                                      removed after a period without packets
//! ```
//!
//! Pure, and of bounded size for any input. What the listener has no room for stays in the table
//! and is reported later.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use policy_engine::direction::Direction;

use super::packet::Packet;
use crate::dataplane::denial::Denial;

/// The most denials that have an entry at a time.
pub const ENTRIES_MAX: usize = 4096;
/// The most entries of one source: a source that scans all ports must not hide other denials.
pub const ENTRIES_PER_SOURCE_MAX: usize = 256;
/// The most entries of one pod: a sender that forges source addresses must not hide other denials.
pub const ENTRIES_PER_POD_MAX: usize = 1024;
/// The time between two reports of a denial whose packets continue; they are counted meanwhile.
pub const PERIOD: Duration = Duration::from_mins(1);

/// A denial to be logged.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// The kind of denial.
    pub denial: Denial,
    /// The denied packet; `None` for all packets that had no room for an entry.
    pub packet: Option<Packet>,
    /// How many packets were denied so far.
    pub packets: u64,
    /// Why the denial is reported now.
    pub occasion: Occasion,
    /// What was reported of this denial before.
    pub reported: Arc<Reported>,
}

/// Why a denial is reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occasion {
    /// The denial is new.
    First,
    /// More packets were denied since the last report; contains the time since then.
    Again(Duration),
    /// Policies have changed: the denial is logged only when other policies deny it now.
    PoliciesChanged,
}

/// What was reported of a denial so far. The table and the agent, which logs it, share this.
#[derive(Default, Debug)]
pub struct Reported {
    packets: AtomicU64,
    cause: AtomicU64,
}

impl Reported {
    /// Notes that `packets` are reported; returns how many of them were not reported before.
    #[must_use]
    pub fn count(&self, packets: u64) -> u64 {
        packets.saturating_sub(self.packets.fetch_max(packets, Ordering::Relaxed))
    }

    /// Notes a hash of what denies the packets now; returns whether it has changed.
    pub fn is_news(&self, cause: u64) -> bool {
        self.cause.swap(cause, Ordering::Relaxed) != cause
    }
}

/// Which entry of the table counts a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Noted {
    /// In an entry of its own denial.
    Counted,
    /// With all denials of its kind, because there is no room for another entry.
    Merged,
}

/// When a packet arrived.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The time of the clock.
    pub now: Instant,
    /// How many times policies had changed.
    pub changes: u64,
}

type Key = (Denial, Packet);

/// What the number of entries is limited for: a source, and the pod that policies isolate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Share {
    Source(IpAddr),
    Pod(IpAddr),
}

impl Share {
    fn of(denial: Denial, packet: Packet) -> [Self; 2] {
        let pod = match denial.direction {
            Direction::Ingress => packet.destination,
            Direction::Egress => packet.source,
        };
        [Self::Source(packet.source), Self::Pod(pod)]
    }

    fn entries_max(self) -> usize {
        match self {
            Self::Source(_) => ENTRIES_PER_SOURCE_MAX,
            Self::Pod(_) => ENTRIES_PER_POD_MAX,
        }
    }
}

#[derive(Default, Debug)]
struct Entry {
    /// The number of packets so far.
    packets: u64,
    /// The time of the last report; `None` before the first one.
    reported_at: Option<Instant>,
    /// How many times policies had changed at the last report.
    changes: u64,
    reported: Arc<Reported>,
}

/// The denials of the last period.
#[derive(Default, Debug)]
pub struct Table {
    entries: BTreeMap<Key, Entry>,
    shares: BTreeMap<Share, usize>,
    merged: BTreeMap<Denial, Entry>,
    backlog: bool,
}

impl Table {
    /// Counts a denied packet. `send` returns whether the listener took the sighting.
    pub fn note(
        &mut self,
        denial: Denial,
        packet: Packet,
        at: Moment,
        send: impl FnOnce(Sighting) -> bool,
    ) -> Noted {
        let key = (denial, packet);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.packets = entry.packets.saturating_add(1);
            // Entries that wait are reported first, in `sweep`.
            if !self.backlog && entry.reported_at.is_some() && entry.changes != at.changes {
                entry.send_policies_changed(denial, packet, at, send);
            }
            return Noted::Counted;
        }
        let shares = Share::of(denial, packet);
        let is_full =
            |share: &Share| self.shares.get(share).is_some_and(|n| *n >= share.entries_max());
        if self.entries.len() >= ENTRIES_MAX || shares.iter().any(is_full) {
            let merged = self.merged.entry(denial).or_default();
            merged.packets = merged.packets.saturating_add(1);
            return Noted::Merged;
        }
        shares.into_iter().for_each(|share| *self.shares.entry(share).or_default() += 1);
        let mut entry = Entry { packets: 1, ..Entry::default() };
        if self.backlog || !entry.send(denial, Some(packet), at, send) {
            self.backlog = true;
        }
        self.entries.insert(key, entry);
        Noted::Counted
    }

    /// Reports what is due until the listener takes no more, and removes entries without news.
    pub fn sweep(&mut self, at: Moment, mut send: impl FnMut(Sighting) -> bool) {
        self.backlog = false;
        let backlog = &mut self.backlog;
        let mut keep = |denial: Denial, packet: Option<Packet>, entry: &mut Entry| {
            if !entry.is_due(at.now) {
                return true;
            }
            if entry.is_reported() {
                return false;
            }
            *backlog |= *backlog || !entry.send(denial, packet, at, &mut send);
            true
        };
        let shares = &mut self.shares;
        self.entries.retain(|(denial, packet), entry| {
            let kept = keep(*denial, Some(*packet), entry);
            for share in Share::of(*denial, *packet).into_iter().filter(|_| !kept) {
                if let Some(count) = shares.get_mut(&share) {
                    *count = count.saturating_sub(1);
                }
            }
            kept
        });
        shares.retain(|_, count| *count > 0);
        self.merged.retain(|denial, entry| keep(*denial, None, entry));
    }

    /// Whether an entry waits for room in the listener's channel.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.backlog
    }
}

impl Entry {
    fn is_due(&self, now: Instant) -> bool {
        self.reported_at.is_none_or(|then| now.saturating_duration_since(then) >= PERIOD)
    }

    /// Whether all packets of the entry were reported.
    fn is_reported(&self) -> bool {
        self.reported_at.is_some() && self.reported.packets.load(Ordering::Relaxed) >= self.packets
    }

    fn send(
        &mut self,
        denial: Denial,
        packet: Option<Packet>,
        at: Moment,
        send: impl FnOnce(Sighting) -> bool,
    ) -> bool {
        let occasion = self.reported_at.map_or(Occasion::First, |then| {
            Occasion::Again(at.now.saturating_duration_since(then))
        });
        let taken = send(self.sighting(denial, packet, occasion));
        if taken {
            (self.reported_at, self.changes) = (Some(at.now), at.changes);
        }
        taken
    }

    fn send_policies_changed(
        &mut self,
        denial: Denial,
        packet: Packet,
        at: Moment,
        send: impl FnOnce(Sighting) -> bool,
    ) {
        if send(self.sighting(denial, Some(packet), Occasion::PoliciesChanged)) {
            self.changes = at.changes;
        }
    }

    fn sighting(&self, denial: Denial, packet: Option<Packet>, occasion: Occasion) -> Sighting {
        let (packets, reported) = (self.packets, self.reported.clone());
        Sighting { denial, packet, packets, occasion, reported }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use policy_engine::port::Protocol;

    use super::super::packet::Transport;
    use super::*;

    /// A table with a clock, and what it sent, as `source:port count occasion`.
    struct Play {
        table: Table,
        now: Instant,
        sent: Vec<String>,
        room: usize,
        changes: u64,
    }

    impl Play {
        fn new() -> Self {
            Self {
                table: Table::default(),
                now: Instant::now(),
                sent: Vec::new(),
                room: usize::MAX,
                changes: 0,
            }
        }

        fn note(&mut self, source: u32, port: u16) -> Noted {
            let Self { table, now, sent, room, changes } = self;
            let at = Moment { now: *now, changes: *changes };
            table.note(denial(), packet(source, port), at, |sighting| take(&sighting, sent, room))
        }

        fn sweep(&mut self) -> Vec<String> {
            let Self { table, now, sent, room, changes } = self;
            let at = Moment { now: *now, changes: *changes };
            table.sweep(at, |sighting| take(&sighting, sent, room));
            std::mem::take(sent)
        }

        fn after(&mut self, seconds: u64) -> Vec<String> {
            self.now += Duration::from_secs(seconds);
            self.sweep()
        }
    }

    fn denial() -> Denial {
        Denial::all().next().expect("there are sixteen")
    }

    fn packet(source: u32, port: u16) -> Packet {
        Packet {
            source: Ipv4Addr::from(source).into(),
            destination: Ipv4Addr::LOCALHOST.into(),
            transport: Transport::Port(Protocol::Tcp, port),
        }
    }

    fn take(sighting: &Sighting, sent: &mut Vec<String>, room: &mut usize) -> bool {
        let Some(left) = room.checked_sub(1) else { return false };
        *room = left;
        let name = sighting.packet.map_or("others".to_owned(), |packet| {
            format!("{}:{}", packet.source, packet.transport.port().unwrap_or_default())
        });
        let (count, when) = match sighting.occasion {
            Occasion::First => (sighting.reported.count(sighting.packets), "first".to_owned()),
            Occasion::Again(after) => {
                (sighting.reported.count(sighting.packets), format!("{} s", after.as_secs()))
            }
            // The same policies still deny the packets: none is logged.
            Occasion::PoliciesChanged => (0, "changed".to_owned()),
        };
        sent.push(format!("{name} {count} {when}"));
        true
    }

    #[test]
    fn the_first_is_reported_at_once_and_the_others_are_counted_by_period() {
        let mut play = Play::new();
        (0..5).for_each(|_| assert_eq!(play.note(1, 80), Noted::Counted));
        assert_eq!(play.sent, ["0.0.0.1:80 1 first"]);
        play.note(1, 81);
        assert_eq!(play.sweep(), ["0.0.0.1:80 1 first", "0.0.0.1:81 1 first"]);
        assert_eq!(play.after(59), [""; 0]);
        assert_eq!(play.after(1), ["0.0.0.1:80 4 60 s"]);
        play.note(1, 80);
        assert_eq!(play.after(60), ["0.0.0.1:80 1 60 s"]);
        assert_eq!(play.after(60), [""; 0]);
        assert!(play.table.entries.is_empty() && play.table.shares.is_empty());
        play.note(1, 80);
        assert_eq!(play.sent, ["0.0.0.1:80 1 first"], "it is new again");
    }

    #[test]
    fn what_the_listener_has_no_room_for_is_reported_later_with_its_count() {
        let mut play = Play::new();
        play.room = 1;
        for port in 80..83 {
            play.note(1, port);
        }
        play.note(1, 81);
        assert_eq!(play.sweep(), ["0.0.0.1:80 1 first"]);
        assert!(play.table.has_backlog());
        play.room = 1;
        assert_eq!(play.sweep(), ["0.0.0.1:81 2 first"]);
        play.room = 9;
        assert_eq!(play.sweep(), ["0.0.0.1:82 1 first"]);
        assert!(!play.table.has_backlog());
    }

    #[test]
    fn what_goes_on_is_looked_into_once_after_policies_changed() {
        let mut play = Play::new();
        play.note(1, 80);
        play.note(1, 80);
        assert_eq!(std::mem::take(&mut play.sent), ["0.0.0.1:80 1 first"]);
        play.changes += 1;
        play.room = 0;
        play.note(1, 80);
        assert!(play.sent.is_empty() && !play.table.has_backlog(), "there is no room to ask");
        play.room = usize::MAX;
        play.note(1, 80);
        play.note(1, 80);
        assert_eq!(std::mem::take(&mut play.sent), ["0.0.0.1:80 0 changed"]);
        assert_eq!(play.after(60), ["0.0.0.1:80 4 60 s"], "none of them was reported");
        play.changes += 1;
        assert_eq!(play.after(60), [""; 0], "no packets follow");
    }

    #[test]
    fn packets_that_were_reported_in_between_are_not_counted_again() {
        let reported = Reported::default();
        assert_eq!([1, 5, 5, 9].map(|packets| reported.count(packets)), [1, 4, 0, 4]);
        assert_eq!([7, 7, 8, 7].map(|cause| reported.is_news(cause)), [true, false, true, true]);
    }

    #[test]
    fn one_source_does_not_take_the_place_of_others() {
        let mut play = Play::new();
        let all = u16::try_from(ENTRIES_PER_SOURCE_MAX).expect("it is small");
        (0..all).for_each(|port| assert_eq!(play.note(1, port), Noted::Counted));
        assert_eq!(play.note(1, all), Noted::Merged);
        assert_eq!(play.note(1, all + 1), Noted::Merged);
        assert_eq!(play.note(1, 0), Noted::Counted, "it is known");
        assert_eq!(play.note(2, 80), Noted::Counted);
        let sent = play.sweep();
        assert_eq!(sent.len(), ENTRIES_PER_SOURCE_MAX + 2);
        assert!(sent.ends_with(&["0.0.0.2:80 1 first".to_owned(), "others 2 first".to_owned()]));
        play.note(1, all);
        assert_eq!(play.after(60), ["0.0.0.1:0 1 60 s", "others 1 60 s"]);
        play.after(60);
        play.note(1, all);
        assert_eq!(play.sent, [format!("0.0.0.1:{all} 1 first")], "there is room again");
    }

    #[test]
    fn forged_sources_to_one_pod_leave_room_for_what_others_are_denied() {
        let mut play = Play::new();
        let all = u32::try_from(ENTRIES_PER_POD_MAX).expect("it is small");
        (0..all).for_each(|source| assert_eq!(play.note(source, 80), Noted::Counted));
        assert_eq!(play.note(all, 80), Noted::Merged);
        let destination = Ipv4Addr::from(7).into();
        let other = Packet { destination, ..packet(all, 80) };
        let at = Moment { now: play.now, changes: 0 };
        assert_eq!(play.table.note(denial(), other, at, |_| true), Noted::Counted);
    }

    #[test]
    fn the_table_is_bounded_for_any_input() {
        let mut play = Play::new();
        let at = Moment { now: play.now, changes: 0 };
        for source in 0..100_000 {
            let destination = Ipv4Addr::from(source).into();
            play.table.note(
                denial(),
                Packet { destination, ..packet(source, 80) },
                at,
                |sighting| sighting.reported.count(1) == 1,
            );
        }
        assert_eq!(play.table.entries.len(), ENTRIES_MAX);
        assert_eq!(play.table.shares.len(), 2 * ENTRIES_MAX);
        assert_eq!(play.table.merged.len(), 1);
        play.after(60);
        play.after(60);
        assert!(play.table.entries.is_empty() && play.table.merged.is_empty());
    }
}
