//! The labels of the metrics. Each takes its values from a list that is fixed here, so the number of series has a bound.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

/// An enum of label values, and the list of them.
macro_rules! values {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $value:ident,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
        #[allow(non_camel_case_types, reason = "the names are the labels' values")]
        pub enum $name {
            $($(#[$doc])* $value,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$value),*];
        }
    };
}

/// A set of labels.
macro_rules! labels {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $label:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name {
            $($(#[$doc])* pub $label: $kind,)*
        }
    };
}

values! {
    /// How a takeover came about.
    Way {
        /// Handed over.
        handover,
        /// Taken before expiry, on evidence.
        claim,
        /// Taken after expiry.
        expiry,
        /// Ordered by a person, without proof.
        forced,
        /// The same member continued.
        restart,
    }
}

values! {
    /// A step of a takeover.
    Phase {
        /// From the first sign that the leader was gone, or from the Lease, until there was proof.
        pledges,
        /// Until the server was out of recovery.
        promote,
        /// Until it had taken a write.
        verify,
        /// Until the Service led here.
        service,
    }
}

values! {
    /// Why a server was stopped so that it takes no more writes.
    Fence {
        /// A person ordered a switchover.
        ordered,
        /// Its pod was being stopped.
        pod_ends,
        /// Its processes were gone.
        server_died,
        /// It failed its health test.
        server_unhealthy,
        /// It recovered, or was being promoted, for too long.
        server_not_ready,
        /// Its volume was full.
        volume_full,
        /// Its guard did not answer.
        guard_lost,
        /// Its permit ended: the guard killed it.
        permit_ended,
        /// It took writes without a permit: the guard killed it.
        unpermitted,
    }
}

values! {
    /// What a change of the Lease was for.
    Swap {
        /// To go on leading.
        renew,
        /// To begin to lead.
        claim,
        /// To give it up.
        release,
    }
}

values! {
    /// How a change of the Lease ended.
    SwapOutcome {
        /// Done.
        done,
        /// Somebody else changed it first.
        lost,
        /// The API server refused it.
        refused,
        /// No answer: it may have been done.
        unknown,
    }
}

values! {
    /// Why a takeover would not succeed now.
    Obstacle {
        /// The Lease was not seen, or does not exist.
        lease_not_seen,
        /// There is no usable record.
        no_record,
        /// A person paused takeovers.
        paused,
        /// The leader is gone, and nobody could prove it or take over yet.
        leader_gone,
        /// No leader has said it lately.
        no_word,
        /// There is no other member.
        no_other_member,
        /// No other member is fit: `could_fail_over` in `/status` says why, for each.
        no_fit_member,
    }
}

values! {
    /// How a member came back.
    Rejoin {
        /// Plain follow.
        follow,
        /// pg_rewind.
        rewind,
        /// A new copy.
        clone,
    }
}

values! {
    /// How something ended.
    Outcome {
        /// Well.
        ok,
        /// Not well.
        error,
    }
}

values! {
    /// Which way bytes went.
    Direction {
        /// Questions.
        sent,
        /// Answers.
        received,
    }
}

values! {
    /// What a request to the API server asks for.
    ApiVerb {
        /// One object.
        get,
        /// Objects.
        list,
        /// Changes from now on.
        watch,
        /// A change.
        patch,
        /// A new object.
        create,
        /// Anything else.
        other,
    }
}

values! {
    /// What a request to the API server is about.
    ApiResource {
        /// The Lease.
        leases,
        /// Services.
        services,
        /// StatefulSets.
        statefulsets,
        /// Pods.
        pods,
        /// Events.
        events,
        /// Anything else.
        other,
    }
}

values! {
    /// How a request to the API server ended.
    ApiOutcome {
        /// Done.
        ok,
        /// 409: somebody else was first.
        conflict,
        /// Any other 4xx.
        refused,
        /// 5xx.
        failed,
        /// No answer: it may have been done.
        unknown,
    }
}

labels! {
    /// Label of roles.
    RoleLabel {
        /// What the member is.
        role: &'static str,
    }
}

labels! {
    /// Label of takeovers.
    WayLabel {
        /// How.
        way: Way,
    }
}

labels! {
    /// Label of the steps of takeovers.
    PhaseLabel {
        /// Which step.
        phase: Phase,
    }
}

labels! {
    /// Label of fences.
    FenceLabel {
        /// Why.
        reason: Fence,
    }
}

labels! {
    /// Labels of changes of the Lease.
    SwapLabels {
        /// What for.
        kind: Swap,
        /// How it ended.
        outcome: SwapOutcome,
    }
}

labels! {
    /// Label of what stands in the way of a takeover.
    ObstacleLabel {
        /// What.
        reason: Obstacle,
    }
}

labels! {
    /// Label of decisions: `code` of a `why`, of which `core::why::Why` is the list.
    WhyLabel {
        /// Why.
        why: String,
    }
}

labels! {
    /// Labels of rejoins.
    RejoinLabels {
        /// How.
        by: Rejoin,
        /// How it ended.
        outcome: Outcome,
    }
}

labels! {
    /// Labels of API requests.
    ApiLabels {
        /// What was asked for.
        verb: ApiVerb,
        /// About what.
        resource: ApiResource,
        /// How it ended.
        outcome: ApiOutcome,
    }
}

labels! {
    /// Label of the peers' traffic.
    DirectionLabel {
        /// Which way.
        direction: Direction,
    }
}
