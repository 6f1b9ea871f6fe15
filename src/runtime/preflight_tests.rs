//! Questions about rights, against an API server in memory. Time is the test's.

use super::*;
use crate::kubernetes::fake::FakeApi;
use crate::runtime::fixtures;

struct Running {
    api: FakeApi,
    forbidden: Arc<Notify>,
    recorded: watch::Sender<BTreeSet<MemberName>>,
    inputs: mpsc::Receiver<Input>,
}

/// Of postgres-1 in a record of this many members.
fn start(api: &FakeApi, members: u8) -> Running {
    let (recorded, receiver) = watch::channel((1..=members).map(fixtures::name).collect());
    let (sender, inputs) = mpsc::channel(10_000);
    let forbidden = Arc::new(Notify::new());
    tokio::spawn(keep(
        Arc::new(fixtures::settings(1)),
        api.client(),
        receiver,
        forbidden.clone(),
        sender,
    ));
    Running {
        api: api.clone(),
        forbidden,
        recorded,
        inputs,
    }
}

impl Running {
    /// Questions within this time.
    async fn questions_in(&self, time: Duration) -> usize {
        let before = self.api.requests().len();
        tokio::time::sleep(time).await;
        self.api.requests().len() - before
    }

    /// What was told last.
    fn told(&mut self) -> Rights {
        let mut last = None;
        while let Ok(input) = self.inputs.try_recv() {
            let Input::Rights(rights) = input else {
                panic!("{input:?}")
            };
            last = Some(*rights);
        }
        last.unwrap()
    }
}

const MOMENT: Duration = Duration::from_millis(100);
const INTERVAL: Duration = Duration::from_secs(720);
/// The longest time until a right has its turn again.
const ROUND: Duration = Duration::from_secs(900);

#[tokio::test(start_paused = true)]
async fn all_are_asked_at_the_start_and_then_few_in_a_minute() {
    let api = FakeApi::default();
    let mut running = start(&api, 3);
    assert_eq!(fixtures::settings(1).preflight_interval, INTERVAL);
    assert_eq!(running.questions_in(MOMENT).await, 19);
    let told = running.told();
    assert_eq!((told.unknown, told.missing.len()), (0, 0));
    assert!(told.checked_at.is_some());
    for _ in 0..20 {
        let asked = running.questions_in(Duration::from_secs(60)).await;
        assert!((1..=2).contains(&asked), "{asked} in a minute");
    }
    let large = start(&FakeApi::default(), 15);
    large.questions_in(MOMENT).await;
    let asked = large.questions_in(Duration::from_secs(60)).await;
    assert!(asked <= 4, "{asked} in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_taken_away_is_noticed_and_so_is_its_return() {
    let api = FakeApi::default();
    let mut running = start(&api, 3);
    running.questions_in(MOMENT).await;
    for verb in ["get", "patch"] {
        api.deny(verb, "statefulsets/postgres-2");
    }
    running.questions_in(ROUND).await;
    let missing = running.told().missing;
    let words: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let both = [
        "get statefulsets.apps postgres-2",
        "patch statefulsets.apps postgres-2",
    ];
    assert_eq!(words, both);
    api.grant_all();
    // People wait for it: not a whole round.
    running.questions_in(Duration::from_secs(95)).await;
    assert!(running.told().missing.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_forbidden_has_everything_asked_again_but_not_all_the_time() {
    let api = FakeApi::default();
    let mut running = start(&api, 3);
    running.questions_in(MOMENT).await;
    api.deny("patch", "pods/postgres-3-0");
    running.questions_in(Duration::from_secs(15)).await;
    running.forbidden.notify_one();
    running.questions_in(MOMENT).await;
    assert_eq!(running.told().missing.len(), 1);
    let before = api.requests().len();
    for _ in 0..600 {
        running.forbidden.notify_one();
        running.questions_in(Duration::from_secs(1)).await;
    }
    let asked = api.requests().len() - before;
    assert!((5 * 19..12 * 19).contains(&asked), "{asked} in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn no_answer_is_not_a_missing_right_and_nothing_is_asked_in_a_hurry() {
    let api = FakeApi::default();
    api.forbid("POST", "selfsubjectaccessreviews");
    let mut running = start(&api, 3);
    let asked = running.questions_in(Duration::from_secs(60)).await;
    assert!((7..=11).contains(&asked), "{asked}");
    let told = running.told();
    assert_eq!((told.checked_at, told.unknown, told.missing.len()), (None, 19, 0));
    // What was known stays known.
    let api = FakeApi::default();
    api.deny("create", "events/");
    let mut running = start(&api, 3);
    running.questions_in(MOMENT).await;
    api.hang(true);
    running.questions_in(ROUND).await;
    let told = running.told();
    assert_eq!((told.unknown, told.missing.len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_rights_on_a_new_members_objects_are_asked_for_when_it_is_recorded() {
    let api = FakeApi::default();
    api.deny("get", "pods/postgres-4-0");
    let mut running = start(&api, 3);
    running.questions_in(MOMENT).await;
    assert!(running.told().missing.is_empty());
    running.recorded.send_modify(|members| {
        members.insert(fixtures::name(4));
    });
    let asked = running.questions_in(MOMENT).await;
    // The four of the new one, and all once more since an answer was no.
    assert!((4..=4 + 23).contains(&asked), "{asked}");
    assert_eq!(running.told().missing.len(), 1);
    running.recorded.send_modify(|members| {
        members.remove(&fixtures::name(4));
    });
    running.questions_in(MOMENT).await;
    assert!(
        running.told().missing.is_empty(),
        "a member that is gone needs nothing"
    );
}

#[test]
fn a_member_that_lacks_a_right_is_told_of_by_one_that_does_not() {
    let mut sight = Sight::new();
    let mut report = fixtures::standby(2);
    report.missing_rights = 2;
    sight.peers.insert(fixtures::name(2), fixtures::heard(report));
    sight
        .peers
        .insert(fixtures::name(3), fixtures::heard(fixtures::standby(3)));
    let told = of_others(&sight);
    assert!(
        told.len() == 1 && told[0].starts_with("postgres-2 lacks 2 rights"),
        "{told:?}"
    );
    sight.peer_trouble.insert(fixtures::name(2), "refused".into());
    assert!(of_others(&sight).is_empty(), "an old word");
    sight.peer_trouble.clear();
    let mine = Right {
        group: "",
        resource: "pods",
        name: None,
        verb: "get",
    };
    sight.rights.missing.insert(mine);
    assert!(of_others(&sight).is_empty(), "said once");
}
