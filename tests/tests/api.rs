//! The control API of a real agent over its socket: what it answers, refuses, repeats and bears.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use laneway_proto::v1;
use laneway_proto::v1::end_status::State;
use laneway_proto::v1::lane_service_client::LaneServiceClient;
use laneway_proto::v1::watch_lanes_response::Kind;
use laneway_tests::agent::{Agent, plain};
use laneway_tests::bindings::python_with;
use laneway_tests::process::{PATIENCE, run};
use laneway_tests::skipped;
use tonic::{Code, Status, Streaming};

#[path = "api/refusals.rs"]
mod refusals;

use refusals::{Refused, create, delete, issue};

fn named(name: &str) -> v1::LaneSpec {
    plain(name, 56, 64)
}

fn name_of(lane: &v1::Lane) -> String {
    lane.spec.clone().unwrap_or_default().name
}

// --- lanes --------------------------------------------------------------------------------------

#[test]
fn a_lane_is_found_by_name_and_id_until_it_is_deleted() {
    let agent = Agent::start();
    let made = agent.create(named("orders")).unwrap();
    assert_eq!((made.id.len(), name_of(&made).as_str()), (32, "orders"));
    for key in ["orders", made.id.as_str()] {
        assert_eq!(agent.get(key).unwrap(), made, "{key}");
    }
    assert_eq!(
        Refused::of(agent.create(named("orders"))).words(),
        (Code::AlreadyExists, "NAME_TAKEN")
    );
    assert_eq!(agent.delete("orders").unwrap().id, made.id);
    assert_eq!(agent.list().unwrap(), []);
    for gone in ["orders", made.id.as_str()] {
        let words = (Code::NotFound, "LANE_NOT_FOUND");
        assert_eq!(Refused::of(agent.get(gone)).words(), words, "{gone}");
        assert_eq!(Refused::of(agent.delete(gone)).words(), words, "{gone}");
    }
}

#[test]
fn a_lane_whose_name_looks_like_an_id_is_found_by_its_name() {
    let agent = Agent::start();
    let name = "0123456789abcdef0123456789abcdef";
    let made = agent.create(named(name)).unwrap();
    assert_eq!(agent.get(name).map(|lane| lane.id).unwrap(), made.id);
    assert_eq!(agent.delete(name).unwrap().id, made.id);
}

#[test]
fn a_list_comes_in_pages_in_order_of_the_names() {
    let agent = Agent::start();
    for name in ["d", "b", "e", "a", "c"] {
        agent.create(v1::LaneSpec { tenant: tenant_of(name), ..named(name) }).unwrap();
    }
    assert_eq!(pages(&agent, 2, ""), ["a b", "c d", "e"]);
    assert_eq!(pages(&agent, 5, ""), ["a b c d e"]);
    assert_eq!(pages(&agent, 0, ""), ["a b c d e"]);
    assert_eq!(pages(&agent, 1, "dg"), ["a", "c"]);
    assert_eq!(pages(&agent, 9, "px"), [""]);
}

fn tenant_of(name: &str) -> String {
    if ["a", "c"].contains(&name) { "dg" } else { "dx" }.to_owned()
}

/// The names on each page.
fn pages(agent: &Agent, page_size: u32, tenant: &str) -> Vec<String> {
    let mut pages = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListLanesRequest { page_size, page_token, tenant: tenant.to_owned() };
        let answer = agent.lanes(async |mut client| client.list_lanes(request).await).unwrap();
        let v1::ListLanesResponse { lanes, next_page_token, .. } = answer.into_inner();
        pages.push(lanes.iter().map(name_of).collect::<Vec<_>>().join(" "));
        if next_page_token.is_empty() {
            return pages;
        }
        page_token = next_page_token;
    }
}

#[test]
fn validate_only_shows_the_placement_and_changes_nothing() {
    let agent = Agent::start();
    let held = || -> Vec<_> {
        agent.pools().iter().map(|pool| (pool.lane_pages, pool.quarantined_pages)).collect()
    };
    let before = held();
    let ask = |validate_only| {
        let request_id = "again".to_owned() + if validate_only { "?" } else { "" };
        create(&agent, v1::CreateLaneRequest { request_id, validate_only, spec: Some(named("a")) })
    };
    let shown = ask(true).unwrap().placement.unwrap();
    assert_eq!((shown.page_size_bytes, shown.proof.as_str()), (4096, "optimal"));
    assert_eq!((agent.list().unwrap().len(), held()), (0, before));
    let made = ask(false).unwrap();
    assert_eq!(made.placement.unwrap(), v1::Placement { bound: true, ..shown });
    let request = v1::DeleteLaneRequest {
        validate_only: true,
        lane: "a".to_owned(),
        ..v1::DeleteLaneRequest::default()
    };
    assert_eq!(delete(&agent, request).unwrap().id, made.id);
    assert_eq!(agent.get("a").unwrap().id, made.id);
}

#[test]
fn a_lane_without_a_depth_gets_one_for_its_profile_and_the_answer_says_why() {
    let agent = Agent::start();
    let ask = |name: &str, profile: v1::Profile| {
        let spec = v1::LaneSpec { profile: profile.into(), ..plain(name, 56, 0) };
        let request = v1::CreateLaneRequest { spec: Some(spec), ..Default::default() };
        let lane = create(&agent, request).unwrap();
        let slots = lane.spec.unwrap().geometry.unwrap().slot_count;
        (slots, lane.placement.unwrap().depth_reason)
    };
    let (hot, why) = ask("hot", v1::Profile::Latency);
    assert_eq!(hot, 256);
    assert!(why.starts_with("latency") && why.contains("256 slots"), "{why}");
    let (deep, why) = ask("deep", v1::Profile::Throughput);
    assert!(deep > hot && deep.is_power_of_two(), "{deep}");
    assert!(why.starts_with("throughput"), "{why}");
    let spec = Some(plain("own", 56, 8));
    let own = create(&agent, v1::CreateLaneRequest { spec, ..Default::default() }).unwrap();
    assert_eq!(own.placement.unwrap().depth_reason, "");
}

// --- request ids --------------------------------------------------------------------------------

const REUSED: (Code, &str) = (Code::InvalidArgument, "REQUEST_ID_REUSED");

#[test]
fn a_repeated_creation_returns_the_same_lane_also_after_a_restart() {
    let mut agent = Agent::start();
    let request = |name: &str| v1::CreateLaneRequest {
        request_id: "one".to_owned(),
        spec: Some(named(name)),
        ..v1::CreateLaneRequest::default()
    };
    let first = create(&agent, request("a")).unwrap().id;
    for restarted in [false, true] {
        if restarted {
            agent.kill();
            agent.start_again();
        }
        assert_eq!(create(&agent, request("a")).unwrap().id, first, "restarted: {restarted}");
        let other = Refused::of(create(&agent, request("b")));
        assert_eq!(other.words(), REUSED, "restarted: {restarted}");
        assert_eq!(agent.list().unwrap().len(), 1);
    }
}

#[test]
fn a_repeated_deletion_returns_the_lane_as_it_last_was() {
    let mut agent = Agent::start();
    let made = agent.create(named("a")).unwrap();
    agent.create(named("b")).unwrap();
    let request = |lane: &str| v1::DeleteLaneRequest {
        request_id: "two".to_owned(),
        lane: lane.to_owned(),
        ..v1::DeleteLaneRequest::default()
    };
    assert_eq!(delete(&agent, request("a")).unwrap().id, made.id);
    agent.kill();
    agent.start_again();
    assert_eq!(delete(&agent, request("a")).unwrap().id, made.id);
    assert_eq!(Refused::of(delete(&agent, request("b"))).words(), REUSED);
    let spec = Some(named("c"));
    let other = v1::CreateLaneRequest { request_id: "two".to_owned(), validate_only: false, spec };
    assert_eq!(Refused::of(create(&agent, other)).words(), REUSED);
    assert_eq!(agent.list().unwrap().iter().map(name_of).collect::<Vec<_>>(), ["b"]);
}

fn ticket_request(role: v1::Role, ttl_ms: u32) -> v1::IssueTicketRequest {
    let (request_id, lane) = ("three".to_owned(), "a".to_owned());
    v1::IssueTicketRequest { request_id, lane, role: role.into(), ttl_ms }
}

#[test]
fn a_repeated_ticket_request_returns_the_same_ticket() {
    let mut agent = Agent::start();
    agent.create(named("a")).unwrap();
    let producer = || ticket_request(v1::Role::Producer, 60_000);
    let first = issue(&agent, producer()).unwrap();
    assert_eq!(issue(&agent, producer()).unwrap(), first);
    agent.kill();
    agent.start_again();
    assert_eq!(issue(&agent, producer()).unwrap(), first);
    for other in
        [ticket_request(v1::Role::Consumer, 60_000), ticket_request(v1::Role::Producer, 9000)]
    {
        let shown = format!("{other:?}");
        assert_eq!(Refused::of(issue(&agent, other)).words(), REUSED, "{shown}");
    }
    assert_ne!(agent.ticket("a", v1::Role::Producer), first.ticket);
}

#[test]
fn a_repeated_ticket_request_does_not_revive_a_used_ticket() {
    let agent = Agent::start();
    agent.create(named("a")).unwrap();
    let producer = || ticket_request(v1::Role::Producer, 60_000);
    let ticket = issue(&agent, producer()).unwrap().ticket;
    assert!(send_one(&agent, &ticket).status.success());
    assert_eq!(issue(&agent, producer()).unwrap().ticket, ticket);
    let second = send_one(&agent, &ticket);
    assert!(second.stderr.contains("TICKET_INVALID"), "{}", second.stderr);
}

/// Attaches as the producer, sends a message, leaves.
fn send_one(agent: &Agent, ticket: &str) -> laneway_tests::process::Finished {
    let socket = agent.attach_socket().display().to_string();
    let to = ["attach", "send", "--attach-socket", socket.as_str(), "--ticket", ticket];
    run([&to[..], &["--count", "1"]].concat())
}

// --- watch --------------------------------------------------------------------------------------

type Changes = Streaming<v1::WatchLanesResponse>;

fn watch(agent: &Agent, start_revision: u64) -> Result<Changes, Status> {
    let request = v1::WatchLanesRequest { start_revision };
    agent.lanes(async |mut client| Ok(client.watch_lanes(request).await?.into_inner()))
}

/// The next changes, up to and with the first of a kind.
fn until(agent: &Agent, changes: &mut Changes, kind: Kind) -> Vec<v1::WatchLanesResponse> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last: &v1::WatchLanesResponse| last.kind() != kind) {
        let next = async { tokio::time::timeout(PATIENCE, changes.message()).await };
        let next = agent.runtime.block_on(next).expect("a change in time");
        seen.push(next.expect("no error").expect("no end"));
    }
    seen
}

fn kinds(changes: &[v1::WatchLanesResponse]) -> Vec<Kind> {
    changes.iter().map(v1::WatchLanesResponse::kind).collect()
}

#[test]
fn a_watcher_sees_what_is_there_and_then_every_change_in_order() {
    let agent = Agent::start();
    agent.create(named("before")).unwrap();
    let mut changes = watch(&agent, 0).unwrap();
    let first = until(&agent, &mut changes, Kind::Bookmark);
    assert_eq!(kinds(&first), [Kind::Existing, Kind::Bookmark]);
    assert_eq!(first[0].lane.as_ref().map(name_of).as_deref(), Some("before"));
    agent.create(named("during")).unwrap();
    assert!(send_one(&agent, &agent.ticket("during", v1::Role::Producer)).status.success());
    agent.wait_for("during", "producer gone", |lane| {
        lane.producer.as_ref().is_some_and(|end| end.state() == State::Gone)
    });
    agent.delete("during").unwrap();
    let rest = until(&agent, &mut changes, Kind::Deleted);
    assert_eq!(rest[0].kind(), Kind::Created);
    let inner = &kinds(&rest)[1..rest.len() - 1];
    assert!(inner.len() >= 2 && inner.iter().all(|kind| *kind == Kind::Changed), "{inner:?}");
    let states: Vec<State> =
        rest.iter().filter_map(|c| Some(c.lane.as_ref()?.producer.as_ref()?.state())).collect();
    assert!(states.is_sorted_by_key(|state| *state as i32), "{states:?}");
    let revisions: Vec<u64> = rest.iter().map(|change| change.revision).collect();
    assert!(revisions.is_sorted_by(|a, b| a < b) && first[1].revision < revisions[0]);
}

#[test]
fn a_watcher_resumes_after_the_revision_that_it_names() {
    let mut agent = Agent::start();
    let mut changes = watch(&agent, 0).unwrap();
    let bookmark = until(&agent, &mut changes, Kind::Bookmark).remove(0).revision;
    for name in ["a", "b"] {
        agent.create(named(name)).unwrap();
        agent.delete(name).unwrap();
    }
    let mut seen = until(&agent, &mut changes, Kind::Deleted);
    seen.extend(until(&agent, &mut changes, Kind::Deleted));
    assert_eq!(seen.len(), 4);
    for (index, from) in
        std::iter::once(bookmark).chain(seen.iter().map(|c| c.revision)).enumerate()
    {
        let mut resumed = watch(&agent, from).unwrap();
        let mut again = until(&agent, &mut resumed, Kind::Bookmark);
        assert_eq!(again.pop().map(|last| last.revision), Some(seen[3].revision));
        assert_eq!(again, seen[index..]);
    }
    agent.kill();
    agent.start_again();
    for forgotten in [1, bookmark, seen[3].revision, u64::MAX] {
        let words = (Code::OutOfRange, "REVISION_COMPACTED");
        assert_eq!(Refused::of(watch(&agent, forgotten)).words(), words, "{forgotten}");
    }
}

#[test]
fn watchers_that_resume_amid_changes_miss_none_and_see_none_twice() {
    let agent = Agent::start();
    let start = agent.create(named("first")).unwrap().revision;
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| change_often(&agent, 100));
        while !changes.is_finished() {
            let mut resumed = watch(&agent, start).unwrap();
            let seen = until(&agent, &mut resumed, Kind::Bookmark);
            let revisions: Vec<u64> = seen.iter().map(|change| change.revision).collect();
            let (bookmark, changes) = revisions.split_last().unwrap();
            let all: Vec<u64> = (start + 1..=*bookmark).collect();
            assert_eq!(changes, all, "each change up to the bookmark, once");
        }
        changes.join().unwrap();
    });
}

fn change_often(agent: &Agent, times: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = LaneServiceClient::new(agent.channel().await.unwrap());
        for _ in 0..times {
            let spec = Some(named("often"));
            let made = v1::CreateLaneRequest { spec, ..v1::CreateLaneRequest::default() };
            client.create_lane(made).await.unwrap();
            let lane = "often".to_owned();
            let gone = v1::DeleteLaneRequest { lane, ..v1::DeleteLaneRequest::default() };
            client.delete_lane(gone).await.unwrap();
        }
    });
}

// --- limits and other doors ---------------------------------------------------------------------

#[test]
fn a_request_above_the_limit_is_refused_and_the_agent_lives() {
    let agent = Agent::start();
    let long = "a".repeat(100 << 10);
    let status = agent.get(&long).unwrap_err();
    assert!([Code::OutOfRange, Code::ResourceExhausted].contains(&status.code()), "{status:?}");
    let below = agent.get(&"a".repeat(60 << 10)).unwrap_err();
    assert_eq!(below.code(), Code::NotFound);
    assert!(below.message().len() < 1000, "a refusal does not send the request back");
    assert!(agent.create(named("a")).is_ok());
}

#[test]
fn more_connections_than_allowed_do_not_stop_a_first_client() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("laneway.toml");
    fs::write(&config, "version = 1\n[limits]\ncontrol_connections = 4\n").unwrap();
    let agent = Agent::with(&["--config", config.to_str().unwrap()]);
    let channel = agent.runtime.block_on(agent.channel()).unwrap();
    let list = || {
        let mut client = LaneServiceClient::new(channel.clone());
        let request = v1::ListLanesRequest::default();
        agent.runtime.block_on(async { client.list_lanes(request).await }).map(|_| ())
    };
    list().unwrap();
    let crowd: Vec<_> = (0..20).map(|_| UnixStream::connect(agent.socket()).unwrap()).collect();
    for _ in 0..3 {
        list().unwrap();
    }
    drop(crowd);
    agent.create(named("a")).unwrap();
}

#[test]
fn silent_connections_do_not_lock_others_out_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("laneway.toml");
    fs::write(&config, "version = 1\n[limits]\ncontrol_connections = 4\n").unwrap();
    let agent = Agent::with(&["--config", config.to_str().unwrap()]);
    let crowd: Vec<_> = (0..8).map(|_| UnixStream::connect(agent.socket()).unwrap()).collect();
    let list = async {
        let mut client = LaneServiceClient::new(agent.channel().await.unwrap());
        let answer = client.list_lanes(v1::ListLanesRequest::default()).await;
        answer.map(|answer| answer.into_inner().lanes)
    };
    let served = agent.runtime.block_on(async { tokio::time::timeout(PATIENCE / 4, list).await });
    assert_eq!(served.expect("a place becomes free").unwrap(), []);
    drop(crowd);
}

#[test]
fn the_agent_says_that_it_serves() {
    let agent = Agent::start();
    let socket = agent.socket().display().to_string();
    let health = run(["health", "--socket", &socket]);
    assert_eq!((health.status.success(), health.stdout.as_str()), (true, "SERVING\n"));
}

#[test]
fn the_api_is_served_on_a_loopback_port_if_asked_for() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let agent = Agent::with(&["--listen-tcp", &format!("127.0.0.1:{port}")]);
    agent.create(named("a")).unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let list = run(["lane", "list", "--socket", &url, "--output", "json"]).json();
    assert_eq!(list["lanes"][0]["name"], "a");
    let refused = run(["agent", "--listen-tcp", &format!("0.0.0.0:{port}")]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("agent.listen_tcp"), "{}", refused.stderr);
}

#[test]
fn a_client_may_send_the_socket_path_as_authority() {
    let agent = Agent::start();
    let path = agent.socket().display().to_string().replace('/', "%2F");
    let origin: tonic::transport::Uri = format!("http://{path}").parse().unwrap();
    assert!(origin.authority().is_some_and(|authority| authority.as_str().contains("%2F")));
    let list = agent.runtime.block_on(async {
        let channel = agent.channel().await.unwrap();
        let mut client = LaneServiceClient::with_origin(channel, origin);
        client.list_lanes(v1::ListLanesRequest::default()).await
    });
    assert_eq!(list.unwrap().into_inner().lanes, []);
}

/// Python's gRPC dials `unix:PATH` and derives the authority by itself.
#[test]
fn a_python_client_dials_the_socket_by_its_path_and_finds_the_services() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("authority-venv");
    let Some(python) = python_with(&folder, "grpcio", "grpc") else {
        return skipped("python client", "no Python, or no way to install grpcio");
    };
    let agent = Agent::start();
    agent.create(named("a")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/authority.py");
    let output = Command::new(python).arg(script).arg(agent.socket()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let services = ["laneway.v1.LaneService", "laneway.v1.NodeService", "grpc.health.v1.Health"];
    for expected in ["serving: 1", "lanes: 1"].iter().chain(&services) {
        assert!(text.contains(expected), "{expected} is missing: {text}");
    }
}
