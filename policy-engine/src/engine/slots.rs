//! Values under small numbers. The number of a removed value is used again.

/// Values by number.
#[derive(Debug)]
pub(super) struct Slots<T> {
    values: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Stores a value and returns its number.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(number) = self.free.pop() {
            self.values[number as usize] = Some(value);
            return number;
        }
        let number = u32::try_from(self.values.len()).expect("fewer than 2^32 values are alive");
        self.values.push(Some(value));
        number
    }

    /// The value of a number that `insert` returned and that was not removed since.
    pub(super) fn get(&self, number: u32) -> &T {
        self.values[number as usize].as_ref().expect("numbers are dropped with their values")
    }

    /// The value that has this number now, if there is one.
    pub(super) fn find(&self, number: u32) -> Option<&T> {
        self.values.get(number as usize)?.as_ref()
    }

    /// The value of such a number, for changing it.
    pub(super) fn get_mut(&mut self, number: u32) -> &mut T {
        self.values[number as usize].as_mut().expect("numbers are dropped with their values")
    }

    /// Removes the value of such a number.
    pub(super) fn remove(&mut self, number: u32) -> T {
        self.free.push(number);
        self.values[number as usize].take().expect("numbers are dropped with their values")
    }
}
