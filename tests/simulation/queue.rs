//! What will happen, by its moment. Of what happens in the same millisecond the order is drawn by lot.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::world::Event;

#[derive(Debug, Clone)]
struct Item {
    at: u64,
    lot: u64,
    event: Event,
}

impl Item {
    fn key(&self) -> (u64, u64) {
        (self.at, self.lot)
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    // The heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

#[derive(Debug, Clone, Default)]
pub struct Queue(BinaryHeap<Item>);

impl Queue {
    pub fn put(&mut self, at: u64, lot: u64, event: Event) {
        self.0.push(Item { at, lot, event });
    }

    /// When the next thing happens.
    pub fn next(&self) -> Option<u64> {
        self.0.peek().map(|item| item.at)
    }

    pub fn first(&self) -> Option<&Event> {
        self.0.peek().map(|item| &item.event)
    }

    pub fn take(&mut self) -> Option<Event> {
        self.0.pop().map(|item| item.event)
    }

    /// Changes the moments of some.
    pub fn hasten(&mut self, which: impl Fn(&Event) -> bool, at_most: u64) {
        let items = std::mem::take(&mut self.0).into_vec();
        self.0 = items
            .into_iter()
            .map(|item| {
                let hurries = which(&item.event);
                let at = if hurries { item.at.min(at_most) } else { item.at };
                Item { at, ..item }
            })
            .collect();
    }
}
