//! Arrows between workloads, joined where they show the same.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::reach::{IdSet, PortSet};
use policy_engine::words::few;

use super::super::frontends::FrontendEdge;
use super::super::matrix::{Matrix, Numbered};
use super::coarse::Coarse;
use crate::model::Unit;

/// With more ends, each namespace is one end: a picture with more ends cannot be read.
const LEAVES_SHOWN: usize = 1_500;

/// The name of the end for external addresses.
const EXTERNAL: &str = "external";

/// The name of the arc for Ingresses and routes.
const FRONTENDS: &str = "Ingress and Gateway";

/// Workloads of one namespace that are treated alike.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) names: Vec<Arc<str>>,
    /// Its namespace.
    pub(super) space: usize,
}

/// A namespace; external addresses have an arc too, and so have Ingresses and routes.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) name: Arc<str>,
    /// Its leaves: the first of them, and the first behind them.
    pub(super) leaves: (usize, usize),
    pub(super) is_namespace: bool,
}

/// The place where an arrow begins or ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum End {
    Leaf(usize),
    /// All leaves of a namespace.
    Space(usize),
}

/// What is allowed from one end to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Arrow {
    pub(super) from: End,
    pub(super) to: End,
    /// Their number in [`Bundle::ports`].
    pub(super) ports: usize,
}

/// Everything that a picture shows.
#[derive(Debug)]
pub(super) struct Bundle {
    /// All sets of ports.
    pub(super) ports: Numbered,
    pub(super) leaves: Vec<Leaf>,
    pub(super) spaces: Vec<Space>,
    pub(super) arrows: BTreeSet<Arrow>,
    /// Namespaces in which all leaves can connect to each other, and on which ports.
    pub(super) within: BTreeSet<(usize, usize)>,
    /// Leaves to which every pod can connect, and the ports on which all of them can.
    pub(super) rings: BTreeMap<usize, usize>,
    /// Leaves whose pods can connect to each other.
    pub(super) filled: BTreeSet<usize>,
    /// How many workloads there are.
    pub(super) workloads: usize,
    /// The number of the first leaf that stands for Ingresses and routes; they are the last leaves.
    pub(super) frontends: Option<usize>,
    /// What is left out, if there were too many arrows.
    pub(super) coarse: Option<Coarse>,
}

/// The Ingresses and routes of a leaf, and the leaves of their backends by ports.
type Lead<'e> = (BTreeSet<&'e Arc<str>>, BTreeMap<PortSet, BTreeSet<usize>>);

/// The leaves that can connect, and on which ports.
type Sources = BTreeMap<usize, PortSet>;

impl Bundle {
    pub(super) fn new(matrix: &Matrix, frontends: &[FrontendEdge]) -> Self {
        let (mut leaves, mut of_class) = leaves(matrix, false);
        if leaves.len() > LEAVES_SHOWN {
            (leaves, of_class) = self::leaves(matrix, true);
        }
        let workloads = matrix.everyone.len();
        let mut spaces: Vec<Space> = Vec::new();
        for (at, (name, _)) in leaves.iter().enumerate() {
            match spaces.last_mut().filter(|last| last.name == *name) {
                Some(last) => last.leaves.1 = at + 1,
                None => spaces.push(Space {
                    name: name.clone(),
                    leaves: (at, at + 1),
                    is_namespace: true,
                }),
            }
        }
        let pods = leaves.iter().map(|(_, units)| units.iter().map(|unit| unit.pods).sum());
        let pods: Vec<usize> = pods.collect();
        let space_of = spaces.iter().enumerate();
        let space_of = space_of.flat_map(|(number, space)| {
            std::iter::repeat_n(number, space.leaves.1 - space.leaves.0)
        });
        let named = leaves.iter().map(|(_, units)| units.iter().map(|unit| unit.name.clone()));
        let leaves =
            named.zip(space_of).map(|(names, space)| Leaf { names: names.collect(), space });
        let mut bundle = Self {
            ports: Numbered::default(),
            leaves: leaves.collect(),
            spaces,
            arrows: BTreeSet::new(),
            within: BTreeSet::new(),
            rings: BTreeMap::new(),
            filled: BTreeSet::new(),
            workloads,
            frontends: None,
            coarse: None,
        };
        bundle.join(matrix, &of_class, &pods);
        bundle.external(matrix, &of_class);
        bundle.frontends(frontends);
        bundle.coarsen();
        bundle
    }

    /// Whether a leaf stands for Ingresses or routes.
    pub(super) fn is_frontend(&self, leaf: usize) -> bool {
        self.frontends.is_some_and(|first| leaf >= first)
    }

    /// The name of an end.
    pub(super) fn name(&self, end: End) -> String {
        match end {
            End::Space(space) if !self.spaces[space].is_namespace => {
                self.spaces[space].name.to_string()
            }
            End::Space(space) => format!("{}/*", self.spaces[space].name),
            End::Leaf(leaf) => match self.leaves[leaf].names.as_slice() {
                [one] => one.to_string(),
                all => few(all, 3),
            },
        }
    }

    fn join(&mut self, matrix: &Matrix, of_class: &[Vec<usize>], pods: &[usize]) {
        let mut of_leaf: BTreeMap<usize, Sources> = BTreeMap::new();
        for (row, classes) in &matrix.rows {
            let mut sources: Vec<(&PortSet, Vec<usize>)> = Vec::new();
            for (ports, peers) in row {
                let leaves = peers.iter().filter_map(|class| of_class.get(class));
                sources.push((&matrix.ports[*ports], leaves.flatten().copied().collect()));
            }
            for leaf in classes.iter().filter_map(|class| of_class.get(*class)).flatten() {
                let own = of_leaf.entry(*leaf).or_default();
                for (ports, leaves) in &sources {
                    leaves.iter().for_each(|leaf| own.entry(*leaf).or_default().add(ports));
                }
            }
        }
        // Leaves with equal sources are evaluated together.
        let mut alike: BTreeMap<(usize, IdSet), Vec<usize>> = BTreeMap::new();
        for (leaf, mut sources) in of_leaf {
            // A single pod, which can always connect to itself, is not its own source.
            let own =
                sources.remove(&leaf).filter(|_| pods.get(leaf).is_some_and(|pods| *pods > 1));
            if own.is_some() {
                self.filled.insert(leaf);
            }
            if let Some(common) = common(&sources, leaf, 0..pods.len()) {
                sources.retain(|_, ports| *ports != common);
                self.rings.insert(leaf, self.ports.number(&common));
            }
            let ringed = self.rings.get(&leaf).copied();
            for space in 0..self.spaces.len() {
                let (first, behind) = self.spaces[space].leaves;
                let others = behind - first - usize::from((first..behind).contains(&leaf));
                let common = common(&sources, leaf, first..behind).filter(|_| others > 1);
                let Some(common) = common else { continue };
                let number = self.ports.number(&common);
                sources.retain(|other, ports| !(first..behind).contains(other) || *ports != common);
                if Some(number) != ringed {
                    alike.entry((number, (first..behind).collect())).or_default().push(leaf);
                }
            }
            let mut rest: BTreeMap<PortSet, Vec<usize>> = BTreeMap::new();
            for (source, ports) in sources {
                rest.entry(ports).or_default().push(source);
            }
            for (ports, sources) in rest {
                let key = (self.ports.number(&ports), sources.into_iter().collect());
                alike.entry(key).or_default().push(leaf);
            }
        }
        for ((ports, sources), leaves) in alike {
            let destinations: IdSet = leaves.into_iter().collect();
            let (from, to) = (self.ends(&sources), self.ends(&destinations));
            for from in from {
                for to in &to {
                    match (from, *to) {
                        (End::Space(one), End::Space(other)) if one == other => {
                            self.within.insert((one, ports));
                        }
                        (from, to) if from != to => {
                            self.arrows.insert(Arrow { from, to, ports });
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    /// Adds arrows from and to external addresses, without their networks.
    fn external(&mut self, matrix: &Matrix, of_class: &[Vec<usize>]) {
        let mut alike: BTreeMap<(Direction, &PortSet), Vec<usize>> = BTreeMap::new();
        for (class, direction, parts) in &matrix.outside {
            let Some(leaves) = of_class.get(*class) else { continue };
            for (_, ports) in parts {
                alike.entry((*direction, ports)).or_default().extend(leaves);
            }
        }
        if alike.is_empty() {
            return;
        }
        let (space, leaf) = (self.spaces.len(), self.leaves.len());
        let name: Arc<str> = EXTERNAL.into();
        self.spaces.push(Space {
            name: name.clone(),
            leaves: (leaf, leaf + 1),
            is_namespace: false,
        });
        for ((direction, ports), leaves) in alike {
            let ports = self.ports.number(ports);
            for end in self.ends(&leaves.into_iter().collect()) {
                let outside = End::Leaf(leaf);
                let (from, to) = match direction {
                    Direction::Ingress => (outside, end),
                    Direction::Egress => (end, outside),
                };
                self.arrows.insert(Arrow { from, to, ports });
            }
        }
        self.leaves.push(Leaf { names: vec!["external addresses".into()], space });
    }

    /// Adds a leaf for each Ingress and route, or for all of a namespace if there are too many, with
    /// arrows to its backends.
    fn frontends(&mut self, edges: &[FrontendEdge]) {
        let names: BTreeSet<&Arc<str>> = edges.iter().map(|edge| &edge.frontend).collect();
        if names.is_empty() {
            return;
        }
        let (space, first) = (self.spaces.len(), self.leaves.len());
        let each = first + names.len() <= LEAVES_SHOWN;
        let known = self.leaves.iter().enumerate();
        let known = known.flat_map(|(at, leaf)| leaf.names.iter().map(move |name| (&**name, at)));
        let leaf_of: BTreeMap<&str, usize> = known.collect();
        let mut joined: BTreeMap<&str, Lead<'_>> = BTreeMap::new();
        for edge in edges {
            let namespace = edge.frontend.split_once('/').map_or("", |(namespace, _)| namespace);
            let (names, row) =
                joined.entry(if each { &edge.frontend } else { namespace }).or_default();
            names.insert(&edge.frontend);
            let leaves = edge.backends.iter().filter_map(|name| leaf_of.get(&**name));
            row.entry(edge.ports()).or_default().extend(leaves);
        }
        let (mut arrows, mut names) = (Vec::new(), Vec::new());
        for (number, (of_leaf, row)) in joined.into_values().enumerate() {
            names.push(of_leaf.into_iter().cloned().collect());
            for (ports, leaves) in row {
                for to in self.ends(&leaves.into_iter().collect()) {
                    arrows.push((End::Leaf(first + number), to, ports.clone()));
                }
            }
        }
        let leaves = (first, first + names.len());
        self.leaves.extend(names.into_iter().map(|names| Leaf { names, space }));
        self.spaces.push(Space { name: FRONTENDS.into(), leaves, is_namespace: false });
        self.frontends = Some(first);
        for (from, to, ports) in arrows {
            let ports = self.ports.number(&ports);
            self.arrows.insert(Arrow { from, to, ports });
        }
    }

    /// Whether all leaves of a namespace are among these, and there are several.
    fn is_whole(&self, space: usize, leaves: &IdSet) -> bool {
        let (first, behind) = self.spaces[space].leaves;
        behind - first > 1 && (first..behind).all(|leaf| leaves.contains(leaf))
    }

    /// The fewest ends that contain exactly these leaves.
    fn ends(&self, leaves: &IdSet) -> Vec<End> {
        let mut found = BTreeSet::new();
        let mut whole: BTreeMap<usize, bool> = BTreeMap::new();
        for leaf in leaves.iter() {
            let space = self.leaves[leaf].space;
            let is_whole = *whole.entry(space).or_insert_with(|| self.is_whole(space, leaves));
            found.insert(if is_whole { End::Space(space) } else { End::Leaf(leaf) });
        }
        found.into_iter().collect()
    }
}

/// The ports on which all of these leaves can connect to `leaf`, which is left out.
fn common(sources: &Sources, leaf: usize, mut all: Range<usize>) -> Option<PortSet> {
    let mut found: Option<PortSet> = None;
    let is_whole = all.all(|source| {
        let Some(ports) = sources.get(&source) else { return source == leaf };
        let both = found.as_ref().map_or_else(|| ports.clone(), |known| known.intersection(ports));
        let some = !both.is_empty();
        found = Some(both);
        some
    });
    found.filter(|_| is_whole)
}

/// The workloads of a leaf, with their namespace.
type Members<'m> = (Str, Vec<&'m Unit>);

/// The leaves in the order of their names, and those of each class; `whole`: a leaf for each namespace.
fn leaves(matrix: &Matrix, whole: bool) -> (Vec<Members<'_>>, Vec<Vec<usize>>) {
    let mut found: BTreeMap<_, (Vec<&Unit>, Vec<usize>)> = BTreeMap::new();
    for (class, units) in matrix.everyone.of_class.iter().enumerate() {
        for unit in units {
            let own = found.entry((&unit.namespace, (!whole).then_some(class))).or_default();
            own.0.push(unit);
            if own.1.last() != Some(&class) {
                own.1.push(class);
            }
        }
    }
    let mut found: Vec<_> = found.into_iter().collect();
    let first = |units: &[&Unit]| units.first().map(|unit| unit.name.clone());
    found.sort_by_cached_key(|((namespace, _), (units, _))| (Str::clone(namespace), first(units)));
    let mut of_class = vec![Vec::new(); matrix.everyone.of_class.len()];
    let mut leaves = Vec::new();
    for (number, ((namespace, _), (units, classes))) in found.into_iter().enumerate() {
        for class in classes {
            if let Some(leaves) = of_class.get_mut(class) {
                leaves.push(number);
            }
        }
        leaves.push((Str::clone(namespace), units));
    }
    (leaves, of_class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::By;
    use crate::model::{Cluster, Inventory};
    use crate::output::map::About;
    use crate::output::map::matrix::Focus;
    use policy_engine::reach::Reach;
    use policy_engine::world::Options;
    use portcullis_crds::manifest::Manifest;

    /// The arrows of a map, the namespaces that are open within, and the leaves with a ring.
    #[track_caller]
    fn check(policies: &str, expected: [&[&str]; 3]) {
        let pod = |namespace: &str, name: &str| {
            format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, \
                 labels: {{app: {name}}}}}}}\n"
            )
        };
        let pods = [("a", "w"), ("a", "x"), ("a", "z"), ("b", "x"), ("b", "z"), ("c", "x")];
        let mut text: String = pods.iter().map(|(namespace, name)| pod(namespace, name)).collect();
        text += policies;
        let mut inventory = Inventory::default();
        inventory.add_path(Manifest::parse("f", &text).documents, "default");
        let cluster = Cluster::new(&inventory, Options::default());
        let reach = Reach::new(&cluster.world);
        let matrix = Matrix::new(&cluster, &reach, By::Workload, &Focus::all(About::Destinations));
        let bundle = Bundle::new(&matrix, &[]);
        let arrow = |one: &Arrow| format!("{} > {}", bundle.name(one.from), bundle.name(one.to));
        let arrows: Vec<String> = bundle.arrows.iter().map(arrow).collect();
        let within = bundle.within.iter().map(|(space, _)| bundle.name(End::Space(*space)));
        let rings = bundle.rings.keys().map(|leaf| bundle.name(End::Leaf(*leaf)));
        assert_eq!([arrows, within.collect(), rings.collect()], expected.map(<[&str]>::to_vec));
    }

    fn policy(namespace: &str, app: &str, peers: &str) -> String {
        format!(
            "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: '{app}', \
             namespace: {namespace}}}, spec: {{podSelector: {app}, ingress: [{{from: [{peers}]}}]}}}}\n"
        )
    }

    #[test]
    fn equal_arrows_are_one() {
        let (all, x) = ("{}", "{matchLabels: {app: x}}");
        let everything: &[&str] = &["a/pod/w, a/pod/x, a/pod/z", "b/pod/x, b/pod/z", "c/pod/x"];
        check("", [&[], &[], everything]);
        let closed = |namespaces: &[&str]| -> String {
            namespaces.iter().map(|namespace| policy(namespace, all, "{podSelector: {}}")).collect()
        };
        // Each namespace may connect to itself, and everyone to x of b.
        check(
            &(closed(&["a", "b", "c"]) + &policy("b", x, "{namespaceSelector: {}}")),
            [&["b/pod/x > b/pod/z"], &[], &["b/pod/x"]],
        );
        // All of a may connect to all of a on one port, and two pods on another one each too.
        let port = |peer: &str, port: u16| {
            format!("{{from: [{{podSelector: {peer}}}], ports: [{{port: {port}}}]}}")
        };
        let rules = [port(all, 80), port(x, 81), port("{matchLabels: {app: z}}", 82)].join(", ");
        let two = policy("a", all, "").replace("{from: []}", &rules);
        let arrows: &[&str] =
            &["a/pod/x > a/pod/w", "a/pod/x > a/pod/z", "a/pod/z > a/pod/w", "a/pod/z > a/pod/x"];
        check(&(two + &closed(&["b", "c"])), [arrows, &["a/*"], &[]]);
        // All of a may connect to one pod of c, and one pod of b.
        let named = |name: &str| {
            format!("namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}")
        };
        let peers = format!("{{{}}}, {{{}, podSelector: {x}}}", named("a"), named("b"));
        let arrows: &[&str] = &[
            "a/pod/w, a/pod/x, a/pod/z > c/pod/x",
            "b/pod/x > b/pod/z",
            "b/pod/x > c/pod/x",
            "b/pod/z > b/pod/x",
        ];
        check(&(closed(&["a", "b"]) + &policy("c", all, &peers)), [arrows, &[], &[]]);
    }
}
