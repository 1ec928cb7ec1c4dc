//! Values under small numbers. The number of a removed value is used again.

/// Values by number.
#[derive(Debug)]
pub(super) struct Slots<T> {
    values: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Stores a value and returns its number.
    pub(super) fn insert(&mut self, value: T) -> usize {
        if let Some(number) = self.free.pop() {
            self.values[number] = Some(value);
            return number;
        }
        self.values.push(Some(value));
        self.values.len() - 1
    }

    /// The value of a number that `insert` returned and that was not removed since.
    pub(super) fn get(&self, number: usize) -> &T {
        self.values[number].as_ref().expect("numbers are dropped with their values")
    }

    /// The value of such a number, for changing it.
    pub(super) fn get_mut(&mut self, number: usize) -> &mut T {
        self.values[number].as_mut().expect("numbers are dropped with their values")
    }

    /// Removes the value of such a number.
    pub(super) fn remove(&mut self, number: usize) -> T {
        self.free.push(number);
        self.values[number].take().expect("numbers are dropped with their values")
    }
}
