//! All attacks at the same time, in one world: first without agents, when all of them have to
//! arrive, then with policies.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use caps::{CapSet, Capability};
use portcullis_lab::{Capture, Families, Family, IptablesVariant, Topology};

use crate::attack::{Answer, Attack, Needs, Shot, Verdict, Who};
use crate::sequences::{SEQUENCES, Sequence};
use crate::table;
use crate::world::{PATIENCE, World, contains};

/// How long packets may be on their way after the last one was sent.
const ON_THE_WAY: Duration = Duration::from_millis(300);
/// Attacks at the same time.
const AT_ONCE: usize = 16;

/// Which of the two rounds it is: they differ in ports and tokens.
#[derive(Clone, Copy)]
enum Round {
    WithoutAgents,
    WithPolicies,
}

/// Carries out every attack in a world, and fails unless each is as the table says.
pub(crate) fn attack_everything(topology: Topology, variant: IptablesVariant) -> Result<()> {
    let mut world = World::new(topology, variant, Families::Dual)?;
    let attacks = table::all();
    let mut findings = two_rounds(&mut world, &attacks)?;
    for Sequence { name, attack, open_until } in SEQUENCES {
        let verdict = attack(&mut world).context(name)?;
        // Unlike an attack of the table, one that is marked is closed in some runs.
        let is_open = verdict != Verdict::Dropped && !open_until.is_empty();
        let open = is_open.then_some(open_until);
        findings.compare(name, (verdict, Verdict::Dropped), open);
    }
    findings.report(&format!("{topology:?}, {variant:?}"))
}

/// As [`attack_everything`], in a cluster whose pods have IPv4 addresses only. Their links have
/// link-local addresses all the same.
pub(crate) fn attack_by_link_local(topology: Topology) -> Result<()> {
    let mut world = World::new(topology, IptablesVariant::Nft, Families::V4)?;
    let attacks = table::link_local();
    two_rounds(&mut world, &attacks)?.report(&format!("{topology:?}, IPv4 alone"))
}

fn two_rounds(world: &mut World, attacks: &[Attack]) -> Result<Findings> {
    let control = volley(world, attacks, Round::WithoutAgents)?;
    world.cluster.start_agents()?;
    world.cluster.settle(PATIENCE)?;
    let result = volley(world, attacks, Round::WithPolicies)?;
    judge(world, attacks, &control, &result)
}

/// What became of each attack, by its number in the table and its family.
type Outcomes = BTreeMap<(usize, Family), Verdict>;

fn volley(world: &World, attacks: &[Attack], round: Round) -> Result<Outcomes> {
    let mut captures = BTreeMap::new();
    for (who, host) in &world.hosts {
        captures.insert(*who, Capture::start(&host.netns)?);
    }
    let mut shots = Vec::new();
    for (number, attack) in attacks.iter().enumerate() {
        if !attack.topologies.contains(&world.topology) {
            continue;
        }
        for &family in attack.families {
            shots.push((number, shot(world, attack, family, round, shots.len())?));
        }
    }
    let mut answers = Vec::new();
    for some in shots.chunks(AT_ONCE) {
        answers.extend(thread::scope(|scope| {
            let all: Vec<_> = some.iter().map(|(_, shot)| scope.spawn(|| fire(shot))).collect();
            let all = all.into_iter().map(|one| one.join().map_err(|_| anyhow!("panicked"))?);
            all.collect::<Result<Vec<Answer>>>()
        })?);
    }
    thread::sleep(ON_THE_WAY);
    let mut frames = BTreeMap::new();
    for (who, capture) in captures {
        frames.insert(who, capture.stop()?);
    }
    let mut outcomes = Outcomes::new();
    for ((number, shot), answer) in shots.iter().zip(answers) {
        let arrived = match shot.attack.to {
            // Frames reach a node before its rules judge them.
            Who::Node => world.node_received(&shot.token),
            pod => frames.get(&pod).into_iter().flatten().any(|f| contains(f, &shot.token)),
        };
        let passes = arrived || answer == Answer::Came;
        let verdict = if passes { Verdict::Passes } else { Verdict::Dropped };
        outcomes.insert((*number, shot.family), verdict);
    }
    Ok(outcomes)
}

fn shot<'a>(
    world: &'a World,
    attack: &'a Attack,
    family: Family,
    round: Round,
    number: usize,
) -> Result<Shot<'a>> {
    let number = u16::try_from(number)?;
    ensure!(number < 5_000, "each shot has a port of its own");
    let (port, mark) = match round {
        Round::WithoutAgents => (20_000 + number, 0xa5),
        Round::WithPolicies => (25_000 + number, 0x5a),
    };
    let [high, low] = number.to_be_bytes();
    Ok(Shot {
        attack,
        family,
        from: world.host(attack.from)?,
        to: world.host(attack.to)?,
        friend: world.host(Who::Friend)?,
        node: world.host(Who::Node)?,
        port,
        token: [0xc3, mark, high, low, !high, !low, !mark, 0x3c],
    })
}

fn fire(shot: &Shot<'_>) -> Result<Answer> {
    let failed = || format!("{shot}");
    if let Some(prelude) = &shot.attack.prelude {
        shot.to.netns.run(|| prelude(shot))?.with_context(failed)?;
        thread::sleep(Duration::from_millis(20));
    }
    let send = || {
        keep(shot.attack.needs)?;
        (shot.attack.send)(shot)
    };
    shot.from.netns.run(send)?.with_context(failed)
}

/// Gives up every capability of this thread but the one that an attack needs.
pub(crate) fn keep(needs: Needs) -> Result<()> {
    let kept = match needs {
        Needs::Nothing => caps::CapsHashSet::new(),
        Needs::NetRaw => [Capability::CAP_NET_RAW].into(),
    };
    caps::set(None, CapSet::Effective, &kept).context("failed to give up capabilities")
}

/// How many verdicts were compared, what is not as the table says, and what is open still.
#[derive(Default)]
struct Findings {
    compared: usize,
    wrong: Vec<String>,
    open: Vec<String>,
}

impl Findings {
    /// Compares a verdict with the expected one. `open_until` says that it is not that yet.
    fn compare(
        &mut self,
        name: &str,
        (verdict, expected): (Verdict, Verdict),
        open_until: Option<&str>,
    ) {
        self.compared += 1;
        match (verdict == expected, open_until) {
            (true, None) => {}
            (false, Some(until)) => self.open.push(format!("{name}: until {until}")),
            (true, Some(_)) => self.wrong.push(format!("{name}: closed, but marked as open")),
            (false, None) => {
                self.wrong.push(format!("{name}: must be {expected:?}, but is {verdict:?}"));
            }
        }
    }

    /// Prints what is open, and fails when anything is wrong.
    fn report(self, world: &str) -> Result<()> {
        let Self { compared, wrong, open } = self;
        let (number, list) = (open.len(), open.join("\n  "));
        println!("{world}: {compared} attacks, {number} of them open:\n  {list}");
        let (number, list) = (wrong.len(), wrong.join("\n"));
        ensure!(wrong.is_empty(), "{world}: {number} of {compared} are wrong:\n{list}");
        Ok(())
    }
}

fn judge(
    world: &World,
    attacks: &[Attack],
    control: &Outcomes,
    result: &Outcomes,
) -> Result<Findings> {
    let mut findings = Findings::default();
    for (key, verdict) in result {
        let (number, family) = *key;
        let attack = attacks.get(number).context("an outcome has an attack")?;
        let name = format!("{family:?}: {:?} to {:?}: {}", attack.from, attack.to, attack.name);
        let dropped_by_kernel = attack.kernel_drops.contains(&world.topology);
        let unhindered = if dropped_by_kernel { Verdict::Dropped } else { Verdict::Passes };
        if control.get(key) != Some(&unhindered) {
            findings.wrong.push(format!("{name}: without agents it must be {unhindered:?}"));
        }
        let open = attack.open.contains(&world.topology).then_some(attack.open_until);
        findings.compare(&name, (*verdict, attack.expected), open);
    }
    Ok(findings)
}
