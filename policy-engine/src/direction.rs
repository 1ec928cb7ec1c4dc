//! The two directions of a pod's traffic, and values that exist once per direction.

use std::fmt;

/// The direction of a pod's traffic that a rule restricts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// Connections to the pod.
    Ingress,
    /// Connections from the pod.
    Egress,
}

impl Direction {
    /// Both directions, in canonical order.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The name that the Kubernetes API uses in `policyTypes`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }

    /// The field of a policy's `spec` that holds the rules of this direction.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The field of such a rule that holds its peers.
    #[must_use]
    pub fn peers_field(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }

    /// The direction of the same connection at its other end.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// One value for each direction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct PerDirection<T> {
    /// The value for ingress.
    pub ingress: T,
    /// The value for egress.
    pub egress: T,
}

impl<T> PerDirection<T> {
    /// The values that `value` gives for ingress and then for egress.
    pub fn new(mut value: impl FnMut(Direction) -> T) -> Self {
        Self { ingress: value(Direction::Ingress), egress: value(Direction::Egress) }
    }

    /// The value for one direction.
    #[must_use]
    pub fn get(&self, direction: Direction) -> &T {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// The value for one direction, for changing it.
    pub fn get_mut(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }

    /// The values that `change` returns for each value.
    pub fn map<U>(self, mut change: impl FnMut(T) -> U) -> PerDirection<U> {
        PerDirection { ingress: change(self.ingress), egress: change(self.egress) }
    }

    /// Both values, ingress first.
    pub fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        [&self.ingress, &self.egress].into_iter()
    }
}
