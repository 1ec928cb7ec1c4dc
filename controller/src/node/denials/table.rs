//! Which denials were told and which are to be: the first of a kind at once, then a count.
//!
//! ```text
//! packet ─► known: counted               told: at once when new,
//!           new: told                          at once when policies changed and another denies it,
//!           no room: counted by kind           once a period while it goes on,
//!                                              forgotten after a quiet period
//! ```
//!
//! Pure, and of bounded size, whatever comes in. What the listener has no room for stays in the
//! table and is told later.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use policy_engine::direction::Direction;

use super::packet::Packet;
use crate::dataplane::denial::Denial;

/// How many denials are told one by one at a time.
pub const ENTRIES_MAX: usize = 4096;
/// How many of them may have the same source: one that tries every port must not hide the others.
pub const ENTRIES_PER_SOURCE_MAX: usize = 256;
/// How many of them may be about the same pod: nor must one that forges its address.
pub const ENTRIES_PER_POD_MAX: usize = 1024;
/// How long a denial that goes on is only counted.
pub const PERIOD: Duration = Duration::from_mins(1);

/// Something to be told.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// Of which kind.
    pub denial: Denial,
    /// Of which packets; `None` for all that there was no room for.
    pub packet: Option<Packet>,
    /// How many packets so far.
    pub packets: u64,
    /// Why now.
    pub occasion: Occasion,
    /// What was said of it before.
    pub said: Arc<Said>,
}

/// Why something is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occasion {
    /// It is new.
    First,
    /// It went on since it was told, so long ago.
    Again(Duration),
    /// It goes on, and policies have changed: to be told when others deny it now.
    PoliciesChanged,
}

/// What was said of a denial so far. The table, and whoever tells it, share it.
#[derive(Default, Debug)]
pub struct Said {
    packets: AtomicU64,
    cause: AtomicU64,
}

impl Said {
    /// So many packets are told by now; gives how many of them were not before.
    #[must_use]
    pub fn count(&self, packets: u64) -> u64 {
        packets.saturating_sub(self.packets.fetch_max(packets, Ordering::Relaxed))
    }

    /// What denies it by now, as some number; gives whether that is another than was said.
    pub fn is_news(&self, cause: u64) -> bool {
        self.cause.swap(cause, Ordering::Relaxed) != cause
    }
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Noted {
    /// It is told, or counted under its own name.
    Counted,
    /// There is no room for another name: it is counted by kind.
    Merged,
}

/// When a packet came.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the clock.
    pub now: Instant,
    /// After how many changes of policies.
    pub changes: u64,
}

type Key = (Denial, Packet);

/// Whose entries are counted: those of a source, and those of the pod that was judged.
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
    /// Packets so far.
    packets: u64,
    /// When it was told last; `None` before the first time.
    told: Option<Instant>,
    /// After how many changes of policies it was looked into last.
    changes: u64,
    said: Arc<Said>,
}

/// All denials of late.
#[derive(Default, Debug)]
pub struct Table {
    entries: BTreeMap<Key, Entry>,
    shares: BTreeMap<Share, usize>,
    merged: BTreeMap<Denial, Entry>,
    backlog: bool,
}

impl Table {
    /// A packet was denied. `tell` gives whether the listener took it.
    pub fn note(
        &mut self,
        denial: Denial,
        packet: Packet,
        at: Moment,
        tell: impl FnOnce(Sighting) -> bool,
    ) -> Noted {
        let key = (denial, packet);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.packets = entry.packets.saturating_add(1);
            // Whoever waits is told first, in `sweep`.
            if !self.backlog && entry.told.is_some() && entry.changes != at.changes {
                entry.ask_again(denial, packet, at, tell);
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
        if self.backlog || !entry.tell(denial, Some(packet), at, tell) {
            self.backlog = true;
        }
        self.entries.insert(key, entry);
        Noted::Counted
    }

    /// Tells what is due, until the listener takes no more, and forgets what is over.
    pub fn sweep(&mut self, at: Moment, mut tell: impl FnMut(Sighting) -> bool) {
        self.backlog = false;
        let backlog = &mut self.backlog;
        let mut keep = |denial: Denial, packet: Option<Packet>, entry: &mut Entry| {
            if !entry.is_due(at.now) {
                return true;
            }
            if entry.is_told() {
                return false;
            }
            *backlog |= *backlog || !entry.tell(denial, packet, at, &mut tell);
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

    /// Whether something waits for the listener.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.backlog
    }
}

impl Entry {
    fn is_due(&self, now: Instant) -> bool {
        self.told.is_none_or(|told| now.saturating_duration_since(told) >= PERIOD)
    }

    /// Whether all its packets were told.
    fn is_told(&self) -> bool {
        self.told.is_some() && self.said.packets.load(Ordering::Relaxed) >= self.packets
    }

    fn tell(
        &mut self,
        denial: Denial,
        packet: Option<Packet>,
        at: Moment,
        tell: impl FnOnce(Sighting) -> bool,
    ) -> bool {
        let occasion = self.told.map_or(Occasion::First, |told| {
            Occasion::Again(at.now.saturating_duration_since(told))
        });
        let taken = tell(self.sighting(denial, packet, occasion));
        if taken {
            (self.told, self.changes) = (Some(at.now), at.changes);
        }
        taken
    }

    fn ask_again(
        &mut self,
        denial: Denial,
        packet: Packet,
        at: Moment,
        tell: impl FnOnce(Sighting) -> bool,
    ) {
        if tell(self.sighting(denial, Some(packet), Occasion::PoliciesChanged)) {
            self.changes = at.changes;
        }
    }

    fn sighting(&self, denial: Denial, packet: Option<Packet>, occasion: Occasion) -> Sighting {
        let (packets, said) = (self.packets, self.said.clone());
        Sighting { denial, packet, packets, occasion, said }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use policy_engine::port::Protocol;

    use super::super::packet::Transport;
    use super::*;

    /// A table with a clock, and what it told as `kind source:port count seconds`.
    struct Play {
        table: Table,
        now: Instant,
        told: Vec<String>,
        room: usize,
        changes: u64,
    }

    impl Play {
        fn new() -> Self {
            Self {
                table: Table::default(),
                now: Instant::now(),
                told: Vec::new(),
                room: usize::MAX,
                changes: 0,
            }
        }

        fn note(&mut self, source: u32, port: u16) -> Noted {
            let Self { table, now, told, room, changes } = self;
            let at = Moment { now: *now, changes: *changes };
            table.note(denial(), packet(source, port), at, |sighting| take(&sighting, told, room))
        }

        fn sweep(&mut self) -> Vec<String> {
            let Self { table, now, told, room, changes } = self;
            let at = Moment { now: *now, changes: *changes };
            table.sweep(at, |sighting| take(&sighting, told, room));
            std::mem::take(told)
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

    fn take(sighting: &Sighting, told: &mut Vec<String>, room: &mut usize) -> bool {
        let Some(left) = room.checked_sub(1) else { return false };
        *room = left;
        let name = sighting.packet.map_or("others".to_owned(), |packet| {
            format!("{}:{}", packet.source, packet.transport.port().unwrap_or_default())
        });
        let (count, when) = match sighting.occasion {
            Occasion::First => (sighting.said.count(sighting.packets), "first".to_owned()),
            Occasion::Again(after) => {
                (sighting.said.count(sighting.packets), format!("{} s", after.as_secs()))
            }
            // As one who finds that nothing else denies it.
            Occasion::PoliciesChanged => (0, "changed".to_owned()),
        };
        told.push(format!("{name} {count} {when}"));
        true
    }

    #[test]
    fn the_first_is_told_at_once_and_the_others_are_counted_by_period() {
        let mut play = Play::new();
        (0..5).for_each(|_| assert_eq!(play.note(1, 80), Noted::Counted));
        assert_eq!(play.told, ["0.0.0.1:80 1 first"]);
        play.note(1, 81);
        assert_eq!(play.sweep(), ["0.0.0.1:80 1 first", "0.0.0.1:81 1 first"]);
        assert_eq!(play.after(59), [""; 0]);
        assert_eq!(play.after(1), ["0.0.0.1:80 4 60 s"]);
        play.note(1, 80);
        assert_eq!(play.after(60), ["0.0.0.1:80 1 60 s"]);
        assert_eq!(play.after(60), [""; 0]);
        assert!(play.table.entries.is_empty() && play.table.shares.is_empty());
        play.note(1, 80);
        assert_eq!(play.told, ["0.0.0.1:80 1 first"], "it is new again");
    }

    #[test]
    fn what_the_listener_has_no_room_for_is_told_later_with_its_count() {
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
        assert_eq!(std::mem::take(&mut play.told), ["0.0.0.1:80 1 first"]);
        play.changes += 1;
        play.room = 0;
        play.note(1, 80);
        assert!(play.told.is_empty() && !play.table.has_backlog(), "there is no room to ask");
        play.room = usize::MAX;
        play.note(1, 80);
        play.note(1, 80);
        assert_eq!(std::mem::take(&mut play.told), ["0.0.0.1:80 0 changed"]);
        assert_eq!(play.after(60), ["0.0.0.1:80 4 60 s"], "none of them was told");
        play.changes += 1;
        assert_eq!(play.after(60), [""; 0], "it is over");
    }

    #[test]
    fn packets_that_were_told_in_between_are_not_counted_again() {
        let said = Said::default();
        assert_eq!([1, 5, 5, 9].map(|packets| said.count(packets)), [1, 4, 0, 4]);
        assert_eq!([7, 7, 8, 7].map(|cause| said.is_news(cause)), [true, false, true, true]);
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
        let told = play.sweep();
        assert_eq!(told.len(), ENTRIES_PER_SOURCE_MAX + 2);
        assert!(told.ends_with(&["0.0.0.2:80 1 first".to_owned(), "others 2 first".to_owned()]));
        play.note(1, all);
        assert_eq!(play.after(60), ["0.0.0.1:0 1 60 s", "others 1 60 s"]);
        play.after(60);
        play.note(1, all);
        assert_eq!(play.told, [format!("0.0.0.1:{all} 1 first")], "there is room again");
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
    fn the_table_has_an_end_whatever_comes() {
        let mut play = Play::new();
        let at = Moment { now: play.now, changes: 0 };
        for source in 0..100_000 {
            let destination = Ipv4Addr::from(source).into();
            play.table.note(
                denial(),
                Packet { destination, ..packet(source, 80) },
                at,
                |sighting| sighting.said.count(1) == 1,
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
