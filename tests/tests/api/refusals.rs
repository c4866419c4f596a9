//! What the API refuses: every field with what it must not hold, and places that do not exist.

use std::collections::HashMap;
use std::fmt::Debug;

use laneway_proto::v1;
use laneway_tests::agent::{Agent, plain};
use laneway_tests::hugepages::Reserved;
use laneway_tests::skipped;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A refusal as a caller's code sees it.
#[derive(Debug)]
pub(crate) struct Refused {
    code: Code,
    reason: String,
    field: String,
    facts: HashMap<String, String>,
}

impl Refused {
    /// Takes a refusal apart. Whatever was asked, a terminal can print the message.
    pub(crate) fn of<T: Debug>(result: Result<T, Status>) -> Self {
        let status = result.expect_err("a refusal");
        let message = status.message();
        let turns = '\u{202a}'..='\u{202e}';
        let safe = message.chars().all(|c| !c.is_control() && !turns.contains(&c));
        assert!(safe && !message.is_empty() && message.len() < 1000, "{message:?}");
        let info = status.get_details_error_info().expect("ErrorInfo");
        assert_eq!(info.domain, "laneway.v1");
        let violations = status.get_details_bad_request().map(|bad| bad.field_violations);
        let field = violations.unwrap_or_default().pop().map(|v| v.field).unwrap_or_default();
        Self { code: status.code(), reason: info.reason, field, facts: info.metadata }
    }

    pub(crate) fn words(&self) -> (Code, &str) {
        (self.code, &self.reason)
    }

    fn fact(&self, name: &str) -> &str {
        self.facts.get(name).map_or("", String::as_str)
    }
}

pub(crate) fn create(agent: &Agent, request: v1::CreateLaneRequest) -> Result<v1::Lane, Status> {
    agent.lanes(async |mut client| {
        Ok(client.create_lane(request).await?.into_inner().lane.unwrap_or_default())
    })
}

pub(crate) fn delete(agent: &Agent, request: v1::DeleteLaneRequest) -> Result<v1::Lane, Status> {
    agent.lanes(async |mut client| {
        Ok(client.delete_lane(request).await?.into_inner().lane.unwrap_or_default())
    })
}

pub(crate) fn issue(
    agent: &Agent,
    request: v1::IssueTicketRequest,
) -> Result<v1::IssueTicketResponse, Status> {
    agent.lanes(async |mut client| Ok(client.issue_ticket(request).await?.into_inner()))
}

/// Texts that are no names: empty, long, paths, control characters, letters that look like others.
const NO_NAMES: [&str; 13] = [
    "../x",
    "a/b",
    "a\0b",
    "a\nb",
    "a\u{1b}[31mb",
    "a\u{202e}b",
    "Orders",
    "\u{430}dmin",
    "e\u{301}",
    "-a",
    "a-",
    "a b",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// Values that no enumeration has.
const UNKNOWN: [i32; 4] = [99, -1, i32::MIN, i32::MAX];

/// A field, and a request that is wrong in that field alone.
type Bad = (String, v1::CreateLaneRequest);

fn bad(field: &str, change: impl FnOnce(&mut v1::LaneSpec)) -> Bad {
    let mut spec = plain("a", 56, 64);
    change(&mut spec);
    (field.to_owned(), v1::CreateLaneRequest { spec: Some(spec), ..Default::default() })
}

fn bad_geometry() -> Vec<Bad> {
    let (payload, count) = ("spec.geometry.slot_payload_bytes", "spec.geometry.slot_count");
    let product = "spec.geometry";
    let geometry = |(field, slot_payload_bytes, slot_count): (&str, u32, u32)| {
        bad(field, |s| s.geometry = Some(v1::Geometry { slot_payload_bytes, slot_count }))
    };
    let mut rows: Vec<Bad> = [
        (payload, 0, 64),
        (payload, 16_777_153, 64),
        (payload, u32::MAX, 64),
        (payload, u32::MAX, u32::MAX),
        (count, 56, 1),
        (count, 56, 3),
        (count, 56, (1 << 24) + 1),
        (count, 56, 1 << 25),
        (count, 56, 1 << 31),
        (count, 56, u32::MAX),
        (product, 16_777_152, 1 << 24),
        (product, 1 << 20, 1 << 16),
    ]
    .map(geometry)
    .into();
    rows.push(bad("spec.geometry", |spec| spec.geometry = None));
    rows.push(("spec".to_owned(), v1::CreateLaneRequest::default()));
    rows
}

fn bad_pages() -> Vec<Bad> {
    let pages = |page_size_bytes, require| Some(v1::PageRequest { page_size_bytes, require });
    let mut rows = vec![bad("spec.pages.require", |spec| spec.pages = pages(0, true))];
    for size in [1, 3, 4095, 4097, 2 << 30, u64::MAX] {
        rows.push(bad("spec.pages.page_size_bytes", |spec| spec.pages = pages(size, false)));
    }
    rows
}

fn bad_names_and_ids() -> Vec<Bad> {
    let mut rows = vec![bad("spec.name", |spec| spec.name.clear())];
    for text in NO_NAMES {
        rows.push(bad("spec.name", |spec| spec.name = text.to_owned()));
        rows.push(bad("spec.tenant", |spec| spec.tenant = text.to_owned()));
    }
    for id in no_request_ids() {
        let (_, request) = bad("", |_| {});
        let request = v1::CreateLaneRequest { request_id: id, ..request };
        rows.push(("request_id".to_owned(), request));
    }
    rows
}

fn no_request_ids() -> [String; 5] {
    ["a b", "a\n", "\0", "\u{e4}", &"a".repeat(65)].map(str::to_owned)
}

fn bad_enumerations() -> Vec<Bad> {
    let mut rows = Vec::new();
    for value in UNKNOWN {
        rows.push(bad("spec.wait", |spec| spec.wait = value));
        rows.push(bad("spec.shape", |spec| spec.shape = value));
        rows.push(bad("spec.relation", |spec| spec.relation = value));
    }
    rows
}

fn bad_broadcasts() -> Vec<Bad> {
    use v1::BroadcastPolicy::{Evicting, Gated, Overwrite};
    let spec = |policy: v1::BroadcastPolicy, lag_budget_slots, readers_max| v1::BroadcastSpec {
        policy: policy.into(),
        lag_budget_slots,
        readers_max,
    };
    let broadcast = |field: &str, asked: v1::BroadcastSpec| {
        bad(field, |spec| {
            spec.shape = v1::Shape::Broadcast.into();
            spec.broadcast = Some(asked);
        })
    };
    let (budget, readers) = ("spec.broadcast.lag_budget_slots", "spec.broadcast.readers_max");
    let mut rows = vec![
        bad("spec.broadcast", |lane| lane.broadcast = Some(spec(Gated, 0, 2))),
        broadcast(readers, spec(Gated, 0, 65)),
        broadcast(readers, spec(Gated, 0, u32::MAX)),
        broadcast(budget, spec(Gated, 1, 2)),
        broadcast(budget, spec(Overwrite, 1, 2)),
        broadcast(budget, spec(Evicting, u32::MAX, 2)),
        bad(budget, |lane| {
            lane.shape = v1::Shape::Broadcast.into();
            lane.geometry = Some(v1::Geometry { slot_payload_bytes: 56, slot_count: 0 });
            lane.broadcast = Some(spec(Evicting, 1, 2));
        }),
    ];
    for value in UNKNOWN {
        let asked = v1::BroadcastSpec { policy: value, ..v1::BroadcastSpec::default() };
        rows.push(broadcast("spec.broadcast.policy", asked));
    }
    rows
}

fn bad_ends() -> Vec<Bad> {
    let mut rows = Vec::new();
    for end in ["producer", "consumer"] {
        for (field, spec) in bad_end() {
            rows.push(bad(&format!("spec.{end}.{field}"), |lane| match end {
                "producer" => lane.producer = Some(spec),
                _ => lane.consumer = Some(spec),
            }));
        }
    }
    rows
}

/// A field of an end, and an end that is wrong in that field alone.
fn bad_end() -> Vec<(&'static str, v1::EndSpec)> {
    let none = || v1::EndSpec { pinning: v1::Pinning::None.into(), ..v1::EndSpec::default() };
    let mut rows = vec![
        ("pinning", v1::EndSpec { exclusive: true, ..none() }),
        ("pinning", v1::EndSpec { cpu: Some(0), ..none() }),
        ("uids", v1::EndSpec { uids: vec![0; 65], ..none() }),
        ("gids", v1::EndSpec { gids: (0..65).collect(), ..none() }),
    ];
    for grade in [v1::Grade::A, v1::Grade::B, v1::Grade::C] {
        rows.push(("pinning", v1::EndSpec { min_grade: grade.into(), ..none() }));
    }
    for value in UNKNOWN {
        rows.push(("pinning", v1::EndSpec { pinning: value, ..none() }));
        rows.push(("min_grade", v1::EndSpec { min_grade: value, ..none() }));
    }
    for cpu in [8192, 99_999, u32::MAX] {
        rows.push(("cpu", v1::EndSpec { cpu: Some(cpu), ..v1::EndSpec::default() }));
    }
    let long = "0,".repeat(1000);
    for list in [
        "0-",
        "-1",
        "9-1",
        "a",
        " ",
        ",",
        "0,",
        "0,0",
        "0-1-2",
        "+1",
        "0x1",
        "99999",
        "0\n1",
        "0-18446744073709551615",
        "\u{1b}[31m",
        &long,
    ] {
        let allowed_cpus = list.to_owned();
        rows.push(("allowed_cpus", v1::EndSpec { allowed_cpus, ..v1::EndSpec::default() }));
    }
    rows
}

#[test]
fn every_bad_field_of_a_creation_is_refused_by_name() {
    let agent = Agent::start();
    let tables = [
        bad_geometry(),
        bad_pages(),
        bad_names_and_ids(),
        bad_enumerations(),
        bad_broadcasts(),
        bad_ends(),
    ];
    let rows = tables.concat();
    assert!(rows.len() > 100, "{} rows", rows.len());
    for (field, request) in rows {
        let shown = format!("{field}: {request:?}");
        let refused = Refused::of(create(&agent, request));
        assert_eq!(refused.words(), (Code::InvalidArgument, "INVALID_FIELD"), "{shown}");
        assert_eq!((&refused.field, refused.fact("field")), (&field, field.as_str()), "{shown}");
    }
    assert_eq!(agent.list().unwrap(), []);
    agent.create(plain("a", 56, 64)).unwrap();
}

#[test]
fn a_feature_of_a_later_version_is_refused_as_such() {
    let agent = Agent::start();
    for pinning in [v1::Pinning::Self_, v1::Pinning::Enforce] {
        let (_, request) = bad("", |spec| {
            spec.shape = v1::Shape::Broadcast.into();
            let pinning = pinning.into();
            spec.consumer = Some(v1::EndSpec { pinning, ..v1::EndSpec::default() });
        });
        let refused = Refused::of(create(&agent, request));
        assert_eq!(refused.words(), (Code::Unimplemented, "UNIMPLEMENTED_FIELD"));
        assert_eq!(refused.field, "spec.consumer.pinning");
    }
    assert_eq!(agent.list().unwrap(), []);
}

#[test]
fn every_bad_field_of_a_ticket_request_is_refused_by_name() {
    let agent = Agent::start();
    agent.create(plain("a", 56, 64)).unwrap();
    let good = || v1::IssueTicketRequest {
        lane: "a".to_owned(),
        role: v1::Role::Producer.into(),
        ..v1::IssueTicketRequest::default()
    };
    let mut rows = Vec::new();
    for role in [0, 3, 9, -1, i32::MAX] {
        rows.push(("role", v1::IssueTicketRequest { role, ..good() }));
    }
    for ttl_ms in [1, 999, 3_600_001, u32::MAX] {
        rows.push(("ttl_ms", v1::IssueTicketRequest { ttl_ms, ..good() }));
    }
    for request_id in no_request_ids() {
        rows.push(("request_id", v1::IssueTicketRequest { request_id, ..good() }));
    }
    for (field, request) in rows {
        let refused = Refused::of(issue(&agent, request));
        assert_eq!(refused.words(), (Code::InvalidArgument, "INVALID_FIELD"), "{field}");
        assert_eq!(refused.field, field);
    }
    for ttl_ms in [0, 1000, 3_600_000] {
        issue(&agent, v1::IssueTicketRequest { ttl_ms, ..good() }).unwrap();
    }
}

#[test]
fn every_bad_field_of_a_list_is_refused_by_name() {
    let agent = Agent::start();
    let list = |request: v1::ListLanesRequest| {
        Refused::of(agent.lanes(async |mut client| client.list_lanes(request).await))
    };
    let mut rows = Vec::new();
    for page_size in [1001, u32::MAX] {
        rows.push(("page_size", v1::ListLanesRequest { page_size, ..Default::default() }));
    }
    for text in NO_NAMES.map(str::to_owned) {
        let page_token = text.clone();
        rows.push(("page_token", v1::ListLanesRequest { page_token, ..Default::default() }));
        rows.push(("tenant", v1::ListLanesRequest { tenant: text, ..Default::default() }));
    }
    for (field, request) in rows {
        let refused = list(request);
        assert_eq!(refused.words(), (Code::InvalidArgument, "INVALID_FIELD"), "{field}");
        assert_eq!(refused.field, field);
    }
}

#[test]
fn a_text_that_is_no_name_names_no_lane() {
    let agent = Agent::start();
    let lane = agent.create(plain("a", 56, 64)).unwrap();
    let id = format!("g{}", &lane.id[1..]);
    for text in NO_NAMES.into_iter().chain(["", &id, &"0".repeat(32), &"f".repeat(33)]) {
        let named = || text.to_owned();
        let role = v1::Role::Producer.into();
        let ticket = v1::IssueTicketRequest { lane: named(), role, ..Default::default() };
        let end = v1::DeleteLaneRequest { lane: named(), ..Default::default() };
        for refused in [
            Refused::of(agent.get(text)),
            Refused::of(delete(&agent, end)),
            Refused::of(issue(&agent, ticket)),
        ] {
            assert_eq!(refused.words(), (Code::NotFound, "LANE_NOT_FOUND"), "{text:?}");
        }
    }
    for request_id in no_request_ids() {
        let request =
            v1::DeleteLaneRequest { request_id, lane: "a".to_owned(), ..Default::default() };
        assert_eq!(Refused::of(delete(&agent, request)).field, "request_id");
    }
    assert_eq!(agent.list().unwrap(), [lane]);
}

// --- policy and places --------------------------------------------------------------------------

fn pinned(name: &str) -> v1::LaneSpec {
    let end = || Some(v1::EndSpec::default());
    v1::LaneSpec { producer: end(), consumer: end(), ..plain(name, 56, 64) }
}

/// Only this cpu, for both ends.
fn on_cpu(name: &str, cpu: u32) -> v1::LaneSpec {
    let end = || Some(v1::EndSpec { cpu: Some(cpu), ..v1::EndSpec::default() });
    v1::LaneSpec { producer: end(), consumer: end(), ..plain(name, 56, 64) }
}

fn exclusive(name: &str) -> v1::LaneSpec {
    let end = || Some(v1::EndSpec { exclusive: true, ..v1::EndSpec::default() });
    v1::LaneSpec { producer: end(), consumer: end(), ..plain(name, 56, 64) }
}

#[test]
fn a_lane_of_an_unknown_tenant_or_beyond_the_quota_is_not_admitted() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("laneway.toml");
    std::fs::write(&config, "version = 1\n[limits]\nlanes = 1\n").unwrap();
    let agent = Agent::with(&["--config", config.to_str().unwrap()]);
    let stranger = v1::LaneSpec { tenant: "nobody".to_owned(), ..plain("a", 56, 64) };
    let refused = Refused::of(agent.create(stranger));
    assert_eq!(refused.words(), (Code::InvalidArgument, "TENANT_UNKNOWN"));
    agent.create(plain("a", 56, 64)).unwrap();
    let refused = Refused::of(agent.create(plain("b", 56, 64)));
    assert_eq!(refused.words(), (Code::ResourceExhausted, "QUOTA_LANES"));
    assert_eq!((refused.fact("lanes"), refused.fact("limit")), ("1", "1"));
    agent.delete("a").unwrap();
    agent.create(plain("b", 56, 64)).unwrap();
}

#[test]
fn a_place_that_does_not_exist_is_refused_with_what_would_fit() {
    let agent = Agent::start();
    let near = v1::CacheRelation::SameL3.into();
    let rows = [
        (
            v1::LaneSpec { numa_node: Some(77), ..plain("a", 56, 64) },
            (Code::ResourceExhausted, "NUMA_UNSATISFIABLE"),
            "with pages of any node",
        ),
        (
            on_cpu("a", 8191),
            (Code::FailedPrecondition, "CPU_OUTSIDE_CPUSET"),
            "on another cpu for the producer and consumer",
        ),
        (
            v1::LaneSpec { relation: near, ..plain("a", 56, 64) },
            (Code::FailedPrecondition, "RELATION_UNSATISFIABLE"),
            "with the ends anywhere",
        ),
    ];
    for (spec, words, would_fit) in rows {
        let refused = Refused::of(agent.create(spec));
        assert_eq!(refused.words(), words);
        assert_eq!(refused.fact("would_fit_if"), would_fit, "{refused:?}");
        assert_ne!(refused.fact("constraint"), "");
    }
    assert_eq!(agent.list().unwrap(), []);
}

#[test]
fn cores_that_are_held_already_are_refused_with_what_would_fit() {
    let agent = Agent::start();
    let lanes = (0..).map(|number| agent.create(exclusive(&format!("lane-{number}"))));
    let refused = Refused::of(lanes.take(10_000).find(Result::is_err).unwrap());
    assert_eq!(refused.words(), (Code::ResourceExhausted, "CORES_EXHAUSTED"));
    assert!(refused.fact("would_fit_if").contains("core for the"), "{refused:?}");
    for lane in agent.list().unwrap() {
        agent.delete(&lane.id).unwrap();
    }
    agent.create(exclusive("again")).unwrap();
}

#[test]
fn tenants_never_share_a_core() {
    let agent = Agent::start();
    let tenant =
        |name: &str, tenant: &str| v1::LaneSpec { tenant: tenant.to_owned(), ..on_cpu(name, 0) };
    agent.create(tenant("a", "dx")).unwrap();
    agent.create(tenant("b", "dx")).unwrap();
    let refused = Refused::of(agent.create(tenant("c", "dg")));
    assert_eq!(refused.words(), (Code::ResourceExhausted, "TENANT_CONFLICT"));
    agent.delete("a").unwrap();
    agent.delete("b").unwrap();
    agent.create(tenant("c", "dg")).unwrap();
}

#[test]
fn grade_a_needs_isolated_cpus() {
    let isolated = std::fs::read_to_string("/sys/devices/system/cpu/isolated").unwrap_or_default();
    if !isolated.trim().is_empty() {
        return skipped("grade A", "this machine has isolated cpus");
    }
    let agent = Agent::start();
    let grade = |grade: v1::Grade| {
        let end = v1::EndSpec { exclusive: true, min_grade: grade.into(), ..Default::default() };
        v1::LaneSpec { producer: Some(end), ..pinned("a") }
    };
    let refused = Refused::of(agent.create(grade(v1::Grade::A)));
    assert_eq!(refused.words(), (Code::FailedPrecondition, "GRADE_UNREACHABLE"));
    assert_eq!(refused.fact("would_fit_if"), "with grade B for the producer");
    let made = agent.create(grade(v1::Grade::B)).unwrap();
    assert_eq!(made.producer.unwrap().grade(), v1::Grade::B);
}

#[test]
fn hugepages_that_are_not_there_are_refused_with_what_would_fit() {
    const HUGE: u64 = 2 << 20;
    let Some(_pages) = Reserved::add(HUGE, 2) else {
        return skipped("hugepages", "the pool cannot be grown");
    };
    let agent = Agent::start();
    let huge = |slot_count| v1::LaneSpec {
        pages: Some(v1::PageRequest { page_size_bytes: HUGE, require: true }),
        ..plain("a", 16_777_152, slot_count)
    };
    // 64 GiB less a little: more than any pool that a test machine has.
    let refused = Refused::of(agent.create(huge(2048)));
    assert_eq!(refused.words(), (Code::ResourceExhausted, "INSUFFICIENT_HUGEPAGES"));
    let fits: u64 = refused.fact("would_fit_bytes").parse().unwrap();
    assert!(fits >= HUGE && fits.is_multiple_of(HUGE), "{refused:?}");
    assert_eq!(refused.fact("would_fit_page_bytes"), HUGE.to_string());
    assert_eq!(agent.list().unwrap(), []);
}
