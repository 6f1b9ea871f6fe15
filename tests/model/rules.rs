//! The bounds of a run, and the rules of the protocol that can be taken out to see that the model bites.

/// Declares the switches: each field is a rule that is missing when it is true.
macro_rules! without {
    ($($(#[doc = $text:literal])* $rule:ident,)*) => {
        /// Rules taken out; none by default.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct Without {
            $($(#[doc = $text])* pub $rule: bool,)*
        }

        impl Without {
            /// Each rule by itself: its name, what is done instead, and the switch.
            pub fn each() -> Vec<(&'static str, String, Self)> {
                vec![$((
                    stringify!($rule),
                    [$($text),*].concat().trim().to_owned(),
                    Self { $rule: true, ..Self::default() },
                ),)*]
            }
        }
    };
}

without! {
    /// 2: a late swap lands whatever has changed meanwhile
    conditional_swaps,
    /// 4: whoever holds the Lease promotes
    proof,
    /// 4: n-k pledges of a set are enough
    overlap,
    /// 4: a proof looks at the set in force alone
    every_set,
    /// 4: positions of pledges are not compared
    positions,
    /// 4: of an empty set anybody may lead
    empty_set,
    /// 4: the primary's end of WAL counts without its pledge
    rest_after_pledge,
    /// 4: pledges to an earlier term count
    pledges_of_this_term,
    /// 5: a standby that has pledged goes on receiving
    receiver_gone,
    /// 5: a primary that has pledged goes on running
    permit_given_up,
    /// 5: a guard that restarts has forgotten its pledge and its highest term
    pledge_on_disk,
    /// 6: the server uses a set before it is recorded
    recorded_first,
    /// 6: a former set leaves the record with the change
    formers_kept,
    /// 6 (i): the new names are taken for in force once they are set
    in_force,
    /// 6 (ii): a former set is released as soon as the new names are in force
    flushed,
    /// 6: at a promotion the new set replaces the others
    added_at_promotion,
    /// 6: no set covers walsenders that obey old and new names at once
    mixture,
    /// 6: names carry no data id, so any life of a member confirms
    names_with_data,
    /// 2, 6: a copy keeps the data id of what was there before
    new_life,
    /// 8: a primary that continues leaves its position at rest in the record
    rest_removed,
    /// 8: a primary that gave up its permit runs again without a fresh swap
    fresh_swap,
    /// damaged Lease: a leader writes its record back without hearing that k of a set have seen no later term
    heard_before_write_back,
    /// 8: the next timeline is the next number here, not above all given out
    fresh_timeline,
}

/// How far a run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub members: usize,
    /// The last term; the first primary leads term 1.
    pub terms: u8,
    /// Lost volumes, late swaps, sidecars that forget. Crashes are not counted: there may be any number.
    pub faults: u8,
    /// Commits tried.
    pub writes: u8,
    /// Changes of the sync set by a leader.
    pub changes: u8,
    /// `sync_standbys`; 0: any number, changed at any time.
    pub k: u16,
}

/// Which faults there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// A volume is lost.
    pub lost_volume: bool,
    /// A swap's outcome is not known, and it may land later.
    pub late_swap: bool,
    /// A sidecar restarts.
    pub forgetful: bool,
    /// The Lease is emptied, and a leader writes back what it led with.
    pub lost_record: bool,
}

impl Faults {
    /// All but a lost record.
    pub const ALL: Self = Self {
        lost_volume: true,
        late_swap: true,
        forgetful: true,
        lost_record: false,
    };
}
