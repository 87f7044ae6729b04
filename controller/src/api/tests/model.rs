//! Custody, versions and conflicts against a model that knows who wrote which version and nothing of how that is kept: whatever
//! two sites, an operator and lost answers do, the controller's nodes, answers and conflicts are the model's (FAULTS I1, I2, I3,
//! I5, I8).

#![expect(clippy::cast_possible_truncation, reason = "a model counts a handful of things")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use pureboot_protocol::{
    ConflictKind, ConflictResolution, Lifecycle, NodeEventKind, Outcome, Resolution, Timestamp,
};
use serde_json::{Value, json};

use super::changes::{event, hand_over, node_id, order, seen, wish};
use super::conflicts::{after, set_strategy};
use super::{Centre, Joined, START_MS};

/// Nodes: two at home at site 0, one at site 1, one without a home.
const NODES: usize = 4;
/// Seconds from one step to the next.
const STEP_SECONDS: i64 = 10;

/// What a site reports or wishes.
#[derive(Debug, Clone)]
struct Report {
    node: usize,
    what: What,
    /// How many versions behind the present one the site is; more than there are stands for none.
    behind: u64,
    /// Whether it comes on top of the site's last change of the node.
    is_chained: bool,
    /// How long ago it was made, and by which clock.
    seconds_ago: i64,
    is_synced: bool,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Event(NodeEventKind),
    /// One of the moves that the node has, or any state where it is not so many.
    Wish(usize),
}

#[derive(Debug, Clone)]
enum Step {
    /// Site, its changes.
    Batch(usize, Vec<Report>),
    /// Site, how many of its last changes come again with the next ones.
    Resend(usize, usize),
    /// Node, which of the moves that it has.
    Order(usize, usize),
    /// Node.
    Touch(usize),
    /// Site.
    Strategy(usize, ConflictResolution),
    /// Which of the open conflicts.
    Resolve(usize, Resolution),
}

/// Most of what happens is about one node, so that it has a history.
fn any_node() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(0), 1 => 0..NODES]
}

/// The move `which` of `state`; retirement, after which nothing happens any more, is the last.
fn way(state: Lifecycle, which: usize) -> Option<Lifecycle> {
    let ways = state.successors().filter(|to| *to != Lifecycle::Retired);
    let ways: Vec<_> = ways.collect();
    match ways.get(which % ways.len().max(1)) {
        Some(to) if which < 8 => Some(*to),
        _ => state.transition(Lifecycle::Retired).ok(),
    }
}

fn report() -> impl Strategy<Value = Report> {
    use NodeEventKind::{BootStarted, FirstBoot, InstallComplete, InstallStarted};
    let what = prop_oneof![
        2 => select(vec![BootStarted, InstallStarted, InstallComplete, FirstBoot]).prop_map(What::Event),
        3 => prop_oneof![6 => 0..2_usize, 1 => 0..Lifecycle::ALL.len()].prop_map(What::Wish),
    ];
    let times = (select(vec![0_i64, 15, 1_000]), prop::bool::weighted(0.8));
    (any_node(), what, select(vec![0_u64, 0, 1, 2, 3, 99]), any::<bool>(), times).prop_map(
        |(node, what, behind, is_chained, (seconds_ago, is_synced))| Report {
            node,
            what,
            behind,
            is_chained,
            seconds_ago,
            is_synced,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let strategies = select(ConflictResolution::ALL.to_vec());
    let resolutions = select(vec![Resolution::KeepLocal, Resolution::KeepCentral]);
    prop_oneof![
        6 => (0..2_usize, prop::collection::vec(report(), 1..6)).prop_map(|(s, r)| Step::Batch(s, r)),
        2 => (0..2_usize, 1..9_usize).prop_map(|(site, last)| Step::Resend(site, last)),
        3 => (any_node(), 0..9_usize).prop_map(|(node, which)| Step::Order(node, which)),
        1 => any_node().prop_map(Step::Touch),
        2 => (0..2_usize, strategies).prop_map(|(site, strategy)| Step::Strategy(site, strategy)),
        2 => (0..9_usize, resolutions).prop_map(|(which, how)| Step::Resolve(which, how)),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    Centre,
    Site(usize),
}

#[derive(Debug, Clone)]
struct Machine {
    home: Option<usize>,
    state: Lifecycle,
    boots: u64,
    /// Who wrote each version, from the first.
    writers: Vec<Writer>,
    centre_wrote_at: i64,
}

impl Machine {
    fn version(&self) -> u64 {
        self.writers.len() as u64
    }

    fn follows(&self, to: Lifecycle) -> bool {
        let needs_operator = (self.state, to) == (Lifecycle::InstallFailed, Lifecycle::Pending);
        self.state == to || (self.state.transition(to).is_ok() && !needs_operator)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Dispute {
    site: usize,
    node: usize,
    kind: ConflictKind,
    wished: Option<Lifecycle>,
    central: (Lifecycle, u64),
    changes: u64,
    resolution: Option<Resolution>,
    version_after: u64,
}

/// What a change is answered with: its outcome, the node's version, and which conflict.
type Expected = (Outcome, Option<u64>, Option<usize>);

#[derive(Debug)]
struct Model {
    now: i64,
    machines: Vec<Machine>,
    disputes: Vec<Dispute>,
    strategies: [ConflictResolution; 2],
    /// What each site has sent, with what it was answered first.
    sent: [Vec<(Value, Expected)>; 2],
    /// The last change of each site about each node.
    last: BTreeMap<(usize, usize), u64>,
}

impl Model {
    fn open(&self, site: usize, node: usize) -> Option<usize> {
        let is_it = |d: &Dispute| (d.site, d.node, d.resolution) == (site, node, None);
        self.disputes.iter().position(is_it)
    }

    fn join(&mut self, dispute: usize, wished: Option<Lifecycle>) -> Expected {
        let joined = &mut self.disputes[dispute];
        joined.changes += 1;
        if joined.resolution.is_none() {
            joined.wished = wished.or(joined.wished);
        }
        (Outcome::Conflict, None, Some(dispute))
    }

    fn begin(
        &mut self,
        site: usize,
        node: usize,
        kind: ConflictKind,
        wished: Option<Lifecycle>,
    ) -> usize {
        let machine = &self.machines[node];
        let central = (machine.state, machine.version());
        self.disputes.push(Dispute {
            site,
            node,
            kind,
            wished,
            central,
            changes: 1,
            resolution: None,
            version_after: machine.version(),
        });
        self.disputes.len() - 1
    }

    fn write(&mut self, node: usize, writer: Writer, state: Lifecycle) -> u64 {
        let machine = &mut self.machines[node];
        machine.state = state;
        machine.writers.push(writer);
        if writer == Writer::Centre {
            machine.centre_wrote_at = self.now;
        }
        machine.version()
    }

    /// The change as it is sent, and what it has to be answered with.
    fn take(&mut self, site: usize, report: &Report) {
        let (seq, node) = (self.sent[site].len() as u64 + 1, report.node);
        let machine = self.machines[node].clone();
        let base = machine.version().saturating_sub(report.behind);
        let wished = match report.what {
            What::Wish(which) if which < 2 => way(machine.state, which).or(Some(machine.state)),
            What::Wish(which) => Lifecycle::ALL.get(which).copied(),
            What::Event(_) => None,
        };
        let mut item = match (report.what, wished) {
            (What::Event(kind), _) => event(seq, node as u8, kind),
            (What::Wish(_), to) => wish(seq, node as u8, to.expect("a state"), base),
        };
        let at = self.now - report.seconds_ago;
        item["at"] = json!(Timestamp::from_unix_ms(START_MS).plus_seconds(at));
        item["clock"] = json!(if report.is_synced { "synced" } else { "unsynced" });
        let previous = self.last.insert((site, node), seq).filter(|_| report.is_chained);
        if let Some(previous) = previous {
            item = after(previous, item);
        }
        let link = previous.and_then(|seq| self.sent[site][seq as usize - 1].1.2);
        let expected = if machine.home.is_some_and(|home| home != site) {
            match self.open(site, node) {
                Some(open) => self.join(open, wished),
                None => {
                    let begun = self.begin(site, node, ConflictKind::SiteMismatch, wished);
                    (Outcome::Conflict, None, Some(begun))
                }
            }
        } else {
            match (report.what, wished) {
                (What::Event(kind), _) => {
                    self.machines[node].boots += u64::from(kind == NodeEventKind::BootStarted);
                    let to = machine.state.after(kind).unwrap_or(machine.state);
                    (Outcome::Applied, Some(self.write(node, Writer::Site(site), to)), link)
                }
                (What::Wish(_), to) => self.wish(site, report, to.expect("a state"), base, link),
            }
        };
        self.sent[site].push((item, expected));
    }

    fn wish(
        &mut self,
        site: usize,
        report: &Report,
        to: Lifecycle,
        sent_base: u64,
        link: Option<usize>,
    ) -> Expected {
        let node = report.node;
        let machine = self.machines[node].clone();
        let mut base = sent_base;
        if let Some(link) = link {
            let dispute = &self.disputes[link];
            if dispute.resolution != Some(Resolution::KeepLocal) {
                return self.join(link, Some(to));
            }
            base = base.max(dispute.version_after);
        }
        // Only the site itself has written since.
        let own = |writer: &Writer| *writer == Writer::Site(site);
        let since = machine.writers.get(base as usize..).unwrap_or_default();
        let agrees = base <= machine.version() && since.iter().all(own);
        if machine.state == to || (agrees && machine.follows(to)) {
            return (Outcome::Applied, Some(self.write(node, Writer::Site(site), to)), link);
        }
        if let Some(open) = self.open(site, node) {
            return self.join(open, Some(to));
        }
        let kind = match machine.state {
            Lifecycle::Retired => ConflictKind::MissingCentral,
            _ if sent_base == 0 => ConflictKind::MissingLocal,
            _ => ConflictKind::StateMismatch,
        };
        let dispute = self.begin(site, node, kind, Some(to));
        let at = self.now - report.seconds_ago;
        let is_later = report.is_synced && at > machine.centre_wrote_at;
        let resolution = match (self.strategies[site], is_later, machine.follows(to)) {
            (ConflictResolution::Manual, ..) => None,
            (ConflictResolution::CentralWins, ..) => Some(Resolution::KeepCentral),
            (ConflictResolution::LastWrite, false, _) => Some(Resolution::KeepCentral),
            (_, _, true) => Some(Resolution::KeepLocal),
            (_, _, false) => None,
        };
        self.disputes[dispute].resolution = resolution;
        if resolution != Some(Resolution::KeepLocal) {
            return (Outcome::Conflict, None, Some(dispute));
        }
        let version = self.write(node, Writer::Site(site), to);
        self.disputes[dispute].version_after = version;
        (Outcome::Applied, Some(version), Some(dispute))
    }
}

/// The controller, its two sites, and the model of both.
struct Bench {
    centre: Centre,
    sites: [Joined; 2],
    model: Model,
    /// The ids of the model's conflicts.
    ids: BTreeMap<usize, String>,
}

impl Bench {
    async fn start() -> Self {
        let centre = Centre::start().await;
        let sites = [centre.join("berlin").await, centre.join("oslo").await];
        let long_ago = Timestamp::from_unix_ms(0).seconds_since(Timestamp::from_unix_ms(START_MS));
        let machine = |site: usize| Machine {
            home: Some(site),
            state: Lifecycle::Discovered,
            boots: 0,
            writers: vec![Writer::Site(site)],
            centre_wrote_at: long_ago,
        };
        let mut model = Model {
            now: 0,
            machines: vec![machine(0), machine(0), machine(1), machine(0)],
            disputes: Vec::new(),
            strategies: [ConflictResolution::CentralWins; 2],
            sent: [Vec::new(), Vec::new()],
            last: BTreeMap::new(),
        };
        for (node, machine) in model.machines.iter().enumerate() {
            let site = machine.home.expect("all begin at home");
            let sent = &mut model.sent[site];
            let seq = sent.len() as u64 + 1;
            let item = seen(seq, node as u8, node as u8 + 1);
            hand_over(&centre, &sites[site], seq, std::slice::from_ref(&item)).await;
            sent.push((item, (Outcome::Applied, Some(1), None)));
        }
        let path = format!("/api/v1/nodes/{}", node_id(3));
        centre.patch(&path, json!({"home_site_id": null})).await.data();
        model.write(3, Writer::Centre, Lifecycle::Discovered);
        model.machines[3].home = None;
        Self { centre, sites, model, ids: BTreeMap::new() }
    }

    async fn run(&mut self, step: Step) {
        self.centre.pass_seconds(STEP_SECONDS);
        self.model.now += STEP_SECONDS;
        match step {
            Step::Batch(site, reports) => {
                let first = self.model.sent[site].len();
                reports.iter().for_each(|report| self.model.take(site, report));
                self.send(site, first, first).await;
            }
            Step::Resend(site, last) => {
                let sent = self.model.sent[site].len();
                self.send(site, sent.saturating_sub(last), sent).await;
            }
            Step::Order(node, which) => {
                let machine = &self.model.machines[node];
                let Some(to) = way(machine.state, which) else { return };
                if (machine.state, to) != (Lifecycle::InstallFailed, Lifecycle::Pending) {
                    order(&self.centre, node as u8, to).await;
                    self.model.write(node, Writer::Centre, to);
                }
            }
            Step::Touch(node) => {
                let path = format!("/api/v1/nodes/{}", node_id(node as u8));
                self.centre.patch(&path, json!({"tags": ["x"]})).await.data();
                let state = self.model.machines[node].state;
                self.model.write(node, Writer::Centre, state);
            }
            Step::Strategy(site, strategy) => {
                set_strategy(&self.centre, &self.sites[site], strategy.as_str()).await;
                self.model.strategies[site] = strategy;
            }
            Step::Resolve(which, how) => self.resolve(which, how).await,
        }
    }

    /// Sends what a site has from `first` on, of which the controller has had those before `new`.
    async fn send(&mut self, site: usize, first: usize, new: usize) {
        let items: Vec<_> =
            self.model.sent[site][first..].iter().map(|(item, _)| item.clone()).collect();
        let receipt = hand_over(&self.centre, &self.sites[site], first as u64 + 1, &items).await;
        assert_eq!(receipt.acked_through, self.model.sent[site].len() as u64, "I1");
        assert_eq!(receipt.results.len(), items.len());
        let expected = self.model.sent[site][first..].iter().zip(first..);
        for (result, ((item, (outcome, version, dispute)), at)) in
            receipt.results.iter().zip(expected)
        {
            let outcome = match outcome {
                Outcome::Applied if at < new => Outcome::Duplicate,
                outcome => *outcome,
            };
            assert_eq!((result.outcome, result.node_version), (outcome, *version), "{item}");
            let id = result.conflict_id.map(|id| id.to_string());
            match dispute {
                None => assert_eq!(id, None, "{item}"),
                Some(dispute) => {
                    let id = id.unwrap_or_else(|| panic!("no conflict: {item}"));
                    let first = self.ids.entry(*dispute).or_insert_with(|| id.clone());
                    assert_eq!(*first, id, "{item}");
                }
            }
        }
    }

    async fn resolve(&mut self, which: usize, how: Resolution) {
        let open: Vec<_> = (0..self.model.disputes.len())
            .filter(|d| self.model.disputes[*d].resolution.is_none())
            .collect();
        let Some(dispute) = open.get(which % open.len().max(1)).copied() else { return };
        let Dispute { site, node, kind, wished, .. } = self.model.disputes[dispute].clone();
        let machine = self.model.machines[node].clone();
        let is_local = how == Resolution::KeepLocal;
        let to = wished.filter(|_| is_local).unwrap_or(machine.state);
        let path = format!("/api/v1/sync/conflicts/{}/resolve", self.ids[&dispute]);
        let body = json!({"resolution": how, "node_version": machine.version(), "force": true});
        let answer = self.centre.post(&path, body.clone()).await;
        if to != machine.state && machine.state.transition(to).is_err() {
            assert_eq!(answer.problem(), (400, "invalid_transition".to_owned()));
            return;
        }
        self.model.disputes[dispute].resolution = Some(how);
        self.model.disputes[dispute].version_after = machine.version();
        if is_local || kind != ConflictKind::SiteMismatch {
            let version = self.model.write(node, Writer::Centre, to);
            self.model.disputes[dispute].version_after = version;
        }
        if is_local {
            self.model.machines[node].home = machine.home.and(Some(site));
        }
        assert_eq!(self.centre.post(&path, body).await.data(), answer.data(), "said again");
    }

    /// Whether the controller is where the model is.
    async fn check(&self) {
        for (node, machine) in self.model.machines.iter().enumerate() {
            let kept = super::changes::node(&self.centre, node as u8).await;
            let home = machine.home.map(|site| self.sites[site].site);
            let found =
                [&kept["state"], &kept["version"], &kept["boot_count"], &kept["home_site_id"]];
            let expected =
                [json!(machine.state), json!(machine.version()), json!(machine.boots), json!(home)];
            assert_eq!(found, expected.each_ref(), "node {node}: {:?}", machine.writers);
        }
        let listed = self.centre.get("/api/v1/sync/conflicts?status=all&limit=500").await;
        let listed = listed.data().as_array().expect("a list");
        assert_eq!(listed.len(), self.model.disputes.len());
        for (dispute, id) in self.model.disputes.iter().zip(self.ids.values()) {
            let row = listed.iter().find(|row| row["id"] == json!(id)).expect("listed");
            let found = [
                &row["site_id"],
                &row["node_id"],
                &row["type"],
                &row["site"]["state"],
                &row["site"]["changes"],
                &row["central"]["state"],
                &row["central"]["version"],
                &row["outcome"]["resolution"],
            ];
            let expected = [
                json!(self.sites[dispute.site].site),
                json!(node_id(dispute.node as u8)),
                json!(dispute.kind),
                json!(dispute.wished),
                json!(dispute.changes),
                json!(dispute.central.0),
                json!(dispute.central.1),
                json!(dispute.resolution),
            ];
            assert_eq!(found, expected.each_ref(), "{dispute:?}");
        }
        // I1, I3: every change of each site is there once and in its place, whatever became of it.
        let traces = self.centre.app.store.traces().await;
        let mut seqs: Vec<u64> = traces
            .iter()
            .filter_map(|trace| trace.strip_prefix("change "))
            .map(|row| {
                serde_json::from_str::<Value>(row).expect("a row")[1].as_u64().expect("a place")
            })
            .collect();
        let mut expected: Vec<_> =
            self.model.sent.iter().flat_map(|sent| 1..=sent.len() as u64).collect();
        seqs.sort_unstable();
        expected.sort_unstable();
        assert_eq!(seqs, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn i1_i2_i3_i5_i8_the_controller_does_what_the_model_does(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut bench = Bench::start().await;
            for step in steps {
                bench.run(step).await;
            }
            bench.check().await;
        });
    }
}
