//! All attacks at the same time, in one world: first without agents, when all of them have to
//! arrive, then with policies.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use caps::{CapSet, Capability};
use portcullis_lab::{Capture, Family, IptablesVariant, Topology};

use crate::attack::{Answer, Attack, Needs, Shot, Verdict, Who};
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
    let mut world = World::new(topology, variant)?;
    let attacks = table::all();
    let control = volley(&world, &attacks, Round::WithoutAgents)?;
    world.cluster.start_agents()?;
    world.cluster.settle(PATIENCE)?;
    let result = volley(&world, &attacks, Round::WithPolicies)?;
    judge(&world, &attacks, &control, &result)
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
fn keep(needs: Needs) -> Result<()> {
    let kept = match needs {
        Needs::Nothing => caps::CapsHashSet::new(),
        Needs::NetRaw => [Capability::CAP_NET_RAW].into(),
    };
    caps::set(None, CapSet::Effective, &kept).context("failed to give up capabilities")
}

fn judge(world: &World, attacks: &[Attack], control: &Outcomes, result: &Outcomes) -> Result<()> {
    let mut wrong = Vec::new();
    let mut open = Vec::new();
    for (key, verdict) in result {
        let (number, family) = *key;
        let attack = attacks.get(number).context("an outcome has an attack")?;
        let name = format!("{family:?}: {:?} to {:?}: {}", attack.from, attack.to, attack.name);
        let dropped_by_kernel = attack.kernel_drops.contains(&world.topology);
        let unhindered = if dropped_by_kernel { Verdict::Dropped } else { Verdict::Passes };
        if control.get(key) != Some(&unhindered) {
            wrong.push(format!("{name}: without agents it must be {unhindered:?}"));
        }
        let is_open = attack.open.contains(&world.topology);
        match (*verdict == attack.expected, is_open) {
            (true, false) => {}
            (false, true) => open.push(format!("{name}: until {}", attack.open_until)),
            (true, true) => wrong.push(format!("{name}: closed, but marked as open")),
            (false, false) => {
                wrong.push(format!("{name}: must be {:?}, but is {verdict:?}", attack.expected));
            }
        }
    }
    let world = format!("{:?}, {:?}", world.topology, world.cluster.lab.iptables());
    println!(
        "{world}: {} attacks, {} of them open:\n  {}",
        result.len(),
        open.len(),
        open.join("\n  ")
    );
    if !wrong.is_empty() {
        bail!("{world}: {} of {} are wrong:\n{}", wrong.len(), result.len(), wrong.join("\n"));
    }
    Ok(())
}
