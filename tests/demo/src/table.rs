//! Predicted and measured, compared cell by cell.

use std::collections::BTreeMap;

use policy_engine::cidr::Family;

use super::scene::Scene;
use portcullis_tests::cases::Port;

/// A connection: who to whom, by their positions in the scene, and to which port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Cell {
    pub(super) family: Family,
    pub(super) source: usize,
    pub(super) destination: usize,
    pub(super) port: Port,
}

/// What came of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Measured {
    /// The destination answered.
    Open,
    /// Nobody answered.
    Closed,
    /// Somebody else answered, who should not have.
    Stranger(String),
}

/// A cell as the engine and the packets see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reading {
    /// Whether the engine says that it is open.
    pub(super) predicted: bool,
    pub(super) measured: Measured,
}

impl Reading {
    /// Whether packets did what the engine says.
    pub(super) fn agrees(&self) -> bool {
        match &self.measured {
            Measured::Open => self.predicted,
            Measured::Closed => !self.predicted,
            Measured::Stranger(_) => false,
        }
    }

    /// Whether the connection was made.
    pub(super) fn is_open(&self) -> bool {
        self.measured == Measured::Open
    }
}

/// All cells of a step.
#[derive(Clone, Default, Debug)]
pub(super) struct Table(BTreeMap<Cell, Reading>);

impl FromIterator<(Cell, Reading)> for Table {
    fn from_iter<I: IntoIterator<Item = (Cell, Reading)>>(cells: I) -> Self {
        Self(cells.into_iter().collect())
    }
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, cell: Cell) -> Option<&Reading> {
        self.0.get(&cell)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Cell, &Reading)> {
        self.0.iter().map(|(cell, reading)| (*cell, reading))
    }

    /// Whether a cell was open before and is not, or the other way round.
    pub(super) fn is_changed(&self, cell: Cell, before: Option<&Self>) -> bool {
        let was = before.and_then(|before| before.get(cell)).map(Reading::is_open);
        was.is_some_and(|was| self.get(cell).map(Reading::is_open) != Some(was))
    }

    /// A line for each cell on which engine and packets do not agree.
    pub(super) fn disagreements(&self, scene: &Scene) -> Vec<String> {
        let wrong = self.iter().filter(|(_, reading)| !reading.agrees());
        wrong
            .map(|(cell, reading)| {
                let predicted = if reading.predicted { "open" } else { "closed" };
                let measured = match &reading.measured {
                    Measured::Open => "open".to_owned(),
                    Measured::Closed => "closed".to_owned(),
                    Measured::Stranger(who) => format!("an answer of {who}"),
                };
                let (name, family) = (scene.name(cell), family_name(cell.family));
                format!("{name} ({family}): predicted {predicted}, measured {measured}")
            })
            .collect()
    }
}

/// The family as people write it.
pub(super) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_predicted_answer_agrees() {
        let check = |predicted, measured, expected| {
            let reading = Reading { predicted, measured };
            assert_eq!(reading.agrees(), expected, "{reading:?}");
        };
        check(true, Measured::Open, true);
        check(true, Measured::Closed, false);
        check(false, Measured::Open, false);
        check(false, Measured::Closed, true);
        check(true, Measured::Stranger("shop/db-1".into()), false);
        check(false, Measured::Stranger("shop/db-1".into()), false);
    }
}
