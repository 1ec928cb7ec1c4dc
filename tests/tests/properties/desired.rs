//! What the kernel should hold follows the policies: after any changes, it is what it would be if it
//! were made from nothing, and only what is touched differs from what is applied.

use std::sync::Arc;

use policy_engine::cidr::Family;
use policy_engine::compiled::{Compiled, Update};
use policy_engine::engine::{Engine, Scope};
use policy_engine::model::Change;
use policy_engine::world::Options as EngineOptions;
use portcullis_controller::dataplane::applied::Applied;
use portcullis_controller::dataplane::attachment::{Attachment, Attachments, InterfaceName};
use portcullis_controller::dataplane::desired::{Desired, Touched, Wanted};
use portcullis_controller::dataplane::diff::{Terms, diff};
use portcullis_controller::dataplane::options::{AcceptAction, Options};
use portcullis_controller::dataplane::refusals::Refusals;
use portcullis_tests::judging::config;
use portcullis_tests::worlds;
use proptest::prelude::*;
use proptest::sample::Index;

/// What happens between two applies.
#[derive(Clone, Debug)]
enum Step {
    Change(Box<Change>),
    /// The interfaces of some pods are known from now on, and those of all others are not.
    Attach(Vec<Index>),
    /// A set is refused.
    RefuseSet(Index),
    /// The chain of a ruleset is refused.
    RefuseChain(Index),
    /// What was refused is tried again.
    Retry,
    /// The engine has one set less than its rulesets refer to, until the next step.
    LoseSet(Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => worlds::change().prop_map(|change| Step::Change(Box::new(change))),
        2 => prop::collection::vec(any::<Index>(), 0..4).prop_map(Step::Attach),
        1 => any::<Index>().prop_map(Step::RefuseSet),
        1 => any::<Index>().prop_map(Step::RefuseChain),
        1 => Just(Step::Retry),
        1 => any::<Index>().prop_map(Step::LoseSet),
    ]
}

/// What a dataplane knows, without a kernel.
struct Followed {
    options: Options,
    attachments: Attachments,
    refusals: Refusals,
    desired: Desired,
    applied: Applied,
    /// None when that is not known.
    touched: Option<Touched>,
    /// How often everything had to be made again.
    made_again: usize,
}

impl Followed {
    fn new(options: Options) -> Self {
        let (attachments, refusals) = (Attachments::default(), Refusals::default());
        let (applied, touched, made_again) = (Applied::default(), None, 0);
        let compiled = Compiled::default();
        let wanted = wanted(&compiled, &attachments, &options, &refusals);
        let desired = Desired::new(wanted, &Family::BOTH);
        Self { options, attachments, refusals, desired, applied, touched, made_again }
    }

    /// Does what the dataplane does in an apply. Of the chains that are not wanted any more, those stay
    /// for later that `postponed` hits.
    fn apply(
        &mut self,
        compiled: &Compiled,
        update: &Update,
        postponed: Option<Index>,
    ) -> Result<(), TestCaseError> {
        let wanted = wanted(compiled, &self.attachments, &self.options, &self.refusals);
        let touched = self.desired.follow(wanted);
        if self.desired.has_followed(wanted, update) {
            self.touched = self.touched.take().map(|before| before.and(touched));
        } else {
            self.desired = Desired::new(wanted, &Family::BOTH);
            self.touched = None;
            self.made_again += 1;
        }
        prop_assert_eq!(&self.desired, &Desired::new(wanted, &Family::BOTH));

        let terms = Terms { update, sets: &compiled.sets, initial_maxelem: 4 };
        let all = self.desired.all_touched(&self.applied);
        let (plan, mut after) = diff(&self.applied, &self.desired, &all, &terms);
        let touched = self.touched.take().unwrap_or(all);
        let (in_part, _) = diff(&self.applied, &self.desired, &touched, &terms);
        prop_assert_eq!(&in_part, &plan, "only what is touched differs");

        plan.destroy.iter().for_each(|set| drop(after.sets.remove(set)));
        let deleted: Vec<_> = plan
            .tables
            .iter()
            .flat_map(|(family, change)| change.delete.iter().map(|chain| (*family, *chain)))
            .collect();
        if let Some(index) = postponed.filter(|_| !deleted.is_empty()) {
            let (family, chain) = *index.get(&deleted);
            let rules = self.applied.tables[&family].chains[&chain].clone();
            after.tables.entry(family).or_default().chains.insert(chain, rules);
        }
        self.applied = after;
        self.touched = Some(self.desired.still_touched(touched, &self.applied));
        Ok(())
    }
}

fn wanted<'a>(
    compiled: &'a Compiled,
    attachments: &'a Attachments,
    options: &'a Options,
    refusals: &'a Refusals,
) -> Wanted<'a> {
    Wanted { compiled, attachments, options, refusals }
}

fn attach(indexes: &[Index]) -> Attachments {
    let name = |text: &str| InterfaceName::new(text).expect("a name of an interface");
    let addresses = worlds::addresses();
    let mut attachments = Attachments::default();
    for index in indexes {
        let number = index.index(addresses.len());
        let bridge = (number % 2 == 0).then(|| name("cni0"));
        let interface = name(&format!("veth{number}"));
        attachments.addresses.insert(addresses[number], Attachment { interface, bridge });
        attachments.pod_interfaces.insert(bridge.unwrap_or(interface));
    }
    attachments
}

proptest! {
    #![proptest_config(config(super::CASES / 10))]

    #[test]
    fn what_is_desired_follows_the_policies(
        steps in prop::collection::vec((step(), any::<bool>(), prop::option::of(any::<Index>())), 1..50),
        accept in any::<bool>(),
    ) {
        let accept = if accept { AcceptAction::Accept } else { AcceptAction::Return };
        let mut followed = Followed::new(Options { accept, ..Options::default() });
        let mut engine = Engine::new(Scope::Cluster, EngineOptions::default());
        let (mut lost, mut interventions) = (None, 0);
        for (step, flushes, postponed) in steps {
            let sets: Vec<_> = followed.desired.sets.keys().copied().collect();
            let chains: Vec<_> = followed.desired.tables.iter().flat_map(|(family, chains)| {
                chains.keys().map(|chain| (*family, *chain))
            }).collect();
            let why: Arc<str> = "no".into();
            let mut missing = None;
            match step {
                Step::Change(change) => engine.apply(*change),
                Step::Attach(indexes) => followed.attachments = attach(&indexes),
                Step::RefuseSet(index) if !sets.is_empty() => {
                    followed.refusals.sets.insert(*index.get(&sets), why);
                }
                Step::RefuseChain(index) => {
                    followed.refusals.chains.insert(*index.get(&chains), why);
                }
                Step::Retry => followed.refusals = Refusals::default(),
                Step::LoseSet(index) if !engine.compiled().sets.is_empty() => {
                    let ids: Vec<_> = engine.compiled().sets.keys().copied().collect();
                    missing = Some(*index.get(&ids));
                }
                Step::RefuseSet(_) | Step::LoseSet(_) => {}
            }
            interventions += usize::from(!followed.refusals.is_empty() || missing.is_some());
            if !flushes && missing.is_none() && lost.is_none() {
                continue;
            }
            let mut update = engine.flush();
            let mut compiled = engine.compiled().clone();
            if let Some(id) = missing && compiled.sets.remove(&id).is_some() {
                update.sets_removed.insert(id);
                update.sets_changed.remove(&id);
            }
            lost = missing;
            followed.apply(&compiled, &update, postponed)?;
        }
        prop_assert!(interventions > 0 || followed.made_again == 0, "an engine's sets are complete");
    }
}
