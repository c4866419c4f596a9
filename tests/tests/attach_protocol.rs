//! The attach socket against clients that do what they like: what they get, and what stays.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use laneway_proto::v1;
use laneway_proto::v1::end_status::State;
use laneway_shm::memfd::required_seals;
use laneway_shm::message::Schema;
use laneway_shm::wire::{Claim, FRAME_MAX, Frame, Grant, Role};
use laneway_shm::{Attach, AttachError, Start};
use laneway_tests::agent::{Agent, plain};
use laneway_tests::process::{Finished, PATIENCE, Running, laneway_as};
use laneway_tests::{is_root, skipped};
use nix::fcntl::{FcntlArg, fcntl};

#[path = "attach_protocol/chatter.rs"]
mod chatter;
#[path = "attach_protocol/raw.rs"]
mod raw;

use raw::{Raw, attached, claim_of, fds, hello, ticket_for, until_fds_are};

const ROLES: [Role; 2] = [Role::Producer, Role::Consumer];

/// An agent with lanes of these names that this test's user may attach by name.
fn with_lanes(names: &[&str]) -> Agent {
    let agent = Agent::start();
    for name in names {
        agent.create(open_to(name, nix::unistd::geteuid().as_raw())).expect("lane");
    }
    agent
}

fn open_to(name: &str, uid: u32) -> v1::LaneSpec {
    let end = || {
        let pinning = v1::Pinning::None.into();
        Some(v1::EndSpec { pinning, uids: vec![uid], ..v1::EndSpec::default() })
    };
    v1::LaneSpec { producer: end(), consumer: end(), ..plain(name, 56, 64) }
}

fn by_name(role: Role, lane: &str) -> Frame {
    hello(role, Claim::Name(lane.to_owned()))
}

/// Waits until the producer's end is in this state.
fn producer_is(agent: &Agent, lane: &str, state: State) {
    agent.wait_for(lane, "producer's state", |lane| {
        lane.producer.as_ref().is_some_and(|end| end.state() == state)
    });
}

// --- frames -------------------------------------------------------------------------------------

/// First packets that no honest client sends, and what they end in.
fn bad_packets() -> Vec<(String, Vec<u8>, &'static str)> {
    let good = by_name(Role::Producer, "a").encode();
    let mut rows = Vec::new();
    let mut row = |what: String, bytes: Vec<u8>| rows.push((what, bytes, "FRAME_INVALID"));
    for cut in 1..good.len() {
        row(format!("cut at {cut}"), good[..cut].to_vec());
    }
    let with = |at: usize, bytes: &[u8]| {
        let mut packet = good.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    // Magic 0..4, version 4..6, kind 6..8, role 8, thread 9..13, claim 13, length 14..16, name.
    row("magic".to_owned(), with(0, b"lnwy"));
    for version in [0_u16, 2, u16::MAX] {
        row(format!("version {version}"), with(4, &version.to_le_bytes()));
    }
    for kind in [0_u16, 7, 15, 24, u16::MAX] {
        row(format!("kind {kind}"), with(6, &kind.to_le_bytes()));
    }
    for value in [0, 3, 255] {
        row(format!("role {value}"), with(8, &[value]));
    }
    for value in [0, 4, 255] {
        row(format!("claim {value}"), with(13, &[value]));
    }
    for length in [0_u16, 2, 64, u16::MAX] {
        row(format!("length {length}"), with(14, &length.to_le_bytes()));
    }
    row("name is no text".to_owned(), with(16, &[0xff]));
    row("a byte too many".to_owned(), [good.as_slice(), &[0]].concat());
    row("the largest packet".to_owned(), vec![0x4c; FRAME_MAX]);
    for frame in [
        Frame::Mapped,
        Frame::Drained { generation: 1 },
        Frame::Drifted { count: 1 },
        Frame::Bye,
        Frame::Live,
        Frame::PeerGone,
        Frame::Revoked,
        Frame::Ended { generation: 1, end: 2 },
        Frame::Refused { reason: "NO".to_owned(), message: "no".to_owned() },
        Frame::Present { role: Role::Producer, number: 1 },
        hello(Role::Producer, Claim::Resume { lane: 1, generation: 1, token: 1 }),
    ] {
        row(format!("{} without a descriptor", frame.name()), frame.encode());
    }
    for length in [FRAME_MAX + 1, 100_000] {
        rows.push((format!("{length} bytes"), vec![0x4c; length], "closed"));
    }
    rows.push(("no bytes".to_owned(), Vec::new(), "closed"));
    rows
}

#[test]
fn every_bad_first_packet_is_refused_or_cut_off_and_leaves_nothing() {
    let agent = with_lanes(&["a"]);
    let before = fds(&agent);
    for (what, bytes, expected) in bad_packets() {
        let client = Raw::connect(&agent);
        client.send_bytes(&bytes, &[]);
        assert_eq!(client.end(), expected, "{what}");
    }
    until_fds_are(&agent, before);
    attached(&agent, "a", Role::Producer);
}

#[test]
fn descriptors_that_a_frame_does_not_carry_are_refused_and_closed() {
    let agent = with_lanes(&["a"]);
    let null = File::open("/dev/null").expect("/dev/null");
    let (reader, _writer) = nix::unistd::pipe().expect("pipe");
    let before = fds(&agent);
    let resume = hello(Role::Producer, Claim::Resume { lane: 1, generation: 1, token: 1 });
    let name = by_name(Role::Producer, "a");
    let rows: [(&Frame, BorrowedFd<'_>, usize, &str); 6] = [
        (&name, null.as_fd(), 1, "FRAME_INVALID"),
        (&name, null.as_fd(), 4, "FRAME_INVALID"),
        (&resume, null.as_fd(), 2, "FRAME_INVALID"),
        (&resume, null.as_fd(), 1, "LANE_NOT_FOUND"),
        (&resume, reader.as_fd(), 1, "LANE_NOT_FOUND"),
        (&Frame::Mapped, reader.as_fd(), 1, "FRAME_INVALID"),
    ];
    for (frame, fd, count, expected) in rows {
        let client = Raw::connect(&agent);
        client.send_bytes(&frame.encode(), &vec![fd; count]);
        assert_eq!(client.end(), expected, "{} with {count}", frame.name());
    }
    until_fds_are(&agent, before);
    attached(&agent, "a", Role::Producer);
}

#[test]
fn more_descriptors_than_a_packet_may_carry_are_closed() {
    let agent = with_lanes(&["a"]);
    let null = File::open("/dev/null").expect("/dev/null");
    let before = fds(&agent);
    for count in [5, 8, 100, 253].repeat(5) {
        let client = Raw::connect(&agent);
        client.send_bytes(&by_name(Role::Producer, "a").encode(), &vec![null.as_fd(); count]);
        let end = client.end();
        assert!(["closed", "FRAME_INVALID"].contains(&&*end), "{count} descriptors: {end}");
    }
    until_fds_are(&agent, before);
    attached(&agent, "a", Role::Producer);
}

#[test]
fn descriptors_that_the_agent_has_no_room_for_are_closed() {
    let agent = with_lanes(&["a"]);
    let null = File::open("/dev/null").expect("/dev/null");
    let before = fds(&agent);
    // Room for a few: the kernel hands over as many as fit, and says that it cut the rest off.
    let limit = format!("--nofile={}", before + 8);
    let pid = format!("--pid={}", agent.pid());
    let limited = std::process::Command::new("prlimit").args([pid, limit]).status();
    if !limited.is_ok_and(|status| status.success()) {
        return skipped("descriptor limit", "there is no prlimit (util-linux)");
    }
    for _ in 0..5 {
        let client = Raw::connect(&agent);
        client.send_bytes(&by_name(Role::Producer, "a").encode(), &[null.as_fd(); 100]);
        assert_eq!(client.end(), "closed");
    }
    until_fds_are(&agent, before);
}

#[test]
fn a_frame_out_of_turn_after_the_grant_ends_the_handshake_and_frees_the_end() {
    let agent = with_lanes(&["a"]);
    for role in ROLES {
        let before = fds(&agent);
        for bytes in [
            by_name(role, "a").encode(),
            Frame::Drained { generation: 1 }.encode(),
            Frame::Bye.encode(),
            Frame::Live.encode(),
            b"garbage".to_vec(),
        ] {
            let client = Raw::connect(&agent);
            client.send(&by_name(role, "a"), None);
            client.grant();
            client.send_bytes(&bytes, &[]);
            assert_eq!(client.end(), "FRAME_INVALID", "{role:?} {bytes:?}");
        }
        until_fds_are(&agent, before);
        attached(&agent, "a", role);
    }
}

#[test]
fn a_live_client_that_sends_garbage_is_cut_off_alone() {
    let agent = with_lanes(&["a", "b"]);
    let (honest, ..) = attached(&agent, "b", Role::Producer);
    let null = File::open("/dev/null").expect("/dev/null");
    let present = Frame::Present { role: Role::Consumer, number: 1 };
    for (bytes, count) in [
        (b"garbage".to_vec(), 0),
        (vec![0; FRAME_MAX + 1], 0),
        (present.encode(), 0),
        (Frame::Drifted { count: 1 }.encode(), 1),
    ] {
        let (client, ..) = attached(&agent, "a", Role::Producer);
        producer_is(&agent, "a", State::Live);
        client.send_bytes(&bytes, &vec![null.as_fd(); count]);
        assert_eq!(client.end(), "closed");
        producer_is(&agent, "a", State::Gone);
        // Nobody reads the lane: without a deletion its ended generations would pile up.
        agent.delete("a").expect("deleted");
        agent.create(open_to("a", nix::unistd::geteuid().as_raw())).expect("lane");
    }
    agent.delete("b").expect("deleted");
    assert_eq!(honest.next().map(|(frame, _)| frame), Some(Frame::Revoked));
}

// --- time ---------------------------------------------------------------------------------------

#[test]
fn silent_connections_are_dropped_and_an_honest_attach_works_meanwhile() {
    let agent = Agent::start();
    let before = fds(&agent);
    let silent: Vec<Raw> = (0..300).map(|_| Raw::connect(&agent)).collect();
    agent.create(open_to("a", nix::unistd::geteuid().as_raw())).expect("lane");
    for role in ROLES {
        attached(&agent, "a", role);
    }
    agent.delete("a").expect("deleted");
    for client in &silent {
        assert_eq!(client.end(), "DEADLINE_EXCEEDED");
    }
    until_fds_are(&agent, before);
}

#[test]
fn a_user_with_too_many_connections_is_turned_away_until_one_ends() {
    let dir = tempfile::tempdir().expect("folder");
    let config = dir.path().join("laneway.toml");
    let limit = "version = 1\n[limits]\nattach_connections_per_uid = 3\n";
    std::fs::write(&config, limit).expect("written");
    let agent = Agent::with(&["--config", config.to_str().expect("text")]);
    agent.create(open_to("a", nix::unistd::geteuid().as_raw())).expect("lane");
    let held: Vec<Raw> = (0..3).map(|_| Raw::connect(&agent)).collect();
    assert_eq!(Raw::connect(&agent).end(), "closed");
    drop(held);
    let (client, ..) = raw::until("a place is free", || {
        let client = Raw::connect(&agent);
        client.try_send(&by_name(Role::Producer, "a")).then_some(())?;
        matches!(client.next()?, (Frame::Grant(_), _)).then_some((client, ()))
    });
    client.live();
}

// --- claims -------------------------------------------------------------------------------------

#[test]
fn a_ticket_is_good_for_one_attach_of_one_end() {
    let agent = with_lanes(&["a"]);
    for (role, other) in [(Role::Producer, Role::Consumer), (Role::Consumer, Role::Producer)] {
        let claim = claim_of(&ticket_for(&agent, "a", role));
        assert_eq!(Raw::asks(&agent, &hello(other, claim.clone())).end(), "TICKET_INVALID");
        let client = Raw::asks(&agent, &hello(role, claim.clone()));
        client.grant();
        assert_eq!(Raw::asks(&agent, &hello(role, claim.clone())).end(), "TICKET_INVALID");
        drop(client);
        assert_eq!(Raw::asks(&agent, &hello(role, claim)).end(), "TICKET_INVALID");
    }
}

#[test]
fn guessed_tickets_are_refused() {
    let agent = with_lanes(&["a"]);
    let issued = ticket_for(&agent, "a", Role::Producer);
    let Claim::Ticket(real) = claim_of(&issued) else { panic!("a ticket") };
    let before = fds(&agent);
    for guess in 0..1000_u32 {
        let mut ticket = real;
        let [low, high, ..] = (guess + 1).to_le_bytes();
        (ticket[guess as usize % 15], ticket[15]) = (ticket[0] ^ low, ticket[15] ^ high ^ 0x80);
        let client = Raw::asks(&agent, &hello(Role::Producer, Claim::Ticket(ticket)));
        assert_eq!(client.end(), "TICKET_INVALID", "guess {guess}");
    }
    until_fds_are(&agent, before);
    Raw::asks(&agent, &hello(Role::Producer, Claim::Ticket(real))).grant();
}

#[test]
fn a_ticket_ends_with_its_time_and_with_its_lane() {
    let agent = with_lanes(&["a", "b"]);
    let request = v1::IssueTicketRequest {
        lane: "a".to_owned(),
        role: v1::Role::Producer.into(),
        ttl_ms: 1000,
        ..v1::IssueTicketRequest::default()
    };
    let issued = agent.lanes(async |mut client| client.issue_ticket(request).await);
    let short = claim_of(&issued.expect("ticket").into_inner().ticket);
    let orphan = claim_of(&ticket_for(&agent, "b", Role::Producer));
    agent.delete("b").expect("deleted");
    agent.create(plain("b", 56, 64)).expect("another lane of the same name");
    std::thread::sleep(Duration::from_millis(1100));
    for claim in [short, orphan] {
        let refused = Raw::asks(&agent, &hello(Role::Producer, claim.clone())).end();
        assert_eq!(refused, "TICKET_INVALID", "{claim:?}");
    }
}

/// Sends a message through a lane by its name, as another user.
fn send_as(agent: &Agent, uid: u32, lane: &str) -> Finished {
    let mut command = laneway_as(uid, agent.dir());
    command.args(["attach", "send", "--count", "1", &format!("--lane={lane}")]);
    command.arg("--attach-socket").arg(agent.attach_socket());
    Running::start(command).finish()
}

#[test]
fn a_user_attaches_by_name_only_where_a_rule_says_so() {
    const NOBODY: u32 = 65534;
    if !is_root() {
        return skipped("uid rules", "only root can become another user");
    }
    let agent = Agent::start();
    let pinning = v1::Pinning::None.into();
    let group = v1::EndSpec { pinning, gids: vec![NOBODY], ..v1::EndSpec::default() };
    agent.create(open_to("theirs", NOBODY)).expect("lane");
    agent.create(v1::LaneSpec { producer: Some(group), ..plain("groups", 56, 64) }).expect("lane");
    agent.create(open_to("roots", 0)).expect("lane");
    agent.create(plain("nobodys", 56, 64)).expect("lane");
    for allowed in ["theirs", "groups"] {
        let sent = send_as(&agent, NOBODY, allowed);
        assert!(sent.status.success(), "{allowed}: {}", sent.stderr);
    }
    let refused = ["roots", "nobodys", "missing", "-no name-"].map(|lane| {
        let sent = send_as(&agent, NOBODY, lane);
        assert_eq!(sent.status.code(), Some(1), "{lane}");
        sent.stderr
    });
    assert!(refused[0].contains("NOT_ALLOWED"), "{}", refused[0]);
    assert!(refused.iter().all(|text| *text == refused[0]), "they tell lanes apart: {refused:?}");
    // Root is a user like any other.
    assert_eq!(Raw::asks(&agent, &by_name(Role::Producer, "theirs")).end(), "NOT_ALLOWED");
}

// --- ends ---------------------------------------------------------------------------------------

#[test]
fn an_end_has_one_owner_at_a_time() {
    let agent = with_lanes(&["a", "b"]);
    for (role, lane) in ROLES.into_iter().zip(["a", "b"]) {
        let ticket = hello(role, claim_of(&ticket_for(&agent, lane, role)));
        let granted = Raw::asks(&agent, &by_name(role, lane));
        granted.grant();
        assert_eq!(Raw::asks(&agent, &ticket).end(), "ROLE_TAKEN", "granted, not live");
        granted.live();
        assert_eq!(Raw::asks(&agent, &ticket).end(), "ROLE_TAKEN", "live");
        assert_eq!(Raw::asks(&agent, &by_name(role, lane)).end(), "ROLE_TAKEN");
        granted.send(&Frame::Bye, None);
        assert_eq!(granted.end(), "closed");
        // A refusal burns no ticket.
        raw::until("the end is free", || match Raw::asks(&agent, &ticket).next()?.0 {
            Frame::Grant(_) => Some(()),
            Frame::Refused { reason, .. } if reason == "ROLE_TAKEN" => None,
            frame => panic!("{frame:?}"),
        });
    }
}

#[test]
fn a_client_that_dies_before_it_is_live_leaves_the_end_free_and_its_segment_to_nobody() {
    let agent = with_lanes(&["a"]);
    for role in ROLES {
        let mut nonces = Vec::new();
        for _ in 0..5 {
            let (client, grant) = raw::until("a grant", || {
                let client = Raw::asks(&agent, &by_name(role, "a"));
                let Frame::Grant(grant) = client.next()?.0 else { return None };
                Some((client, grant))
            });
            nonces.push(grant.nonce);
            drop(client);
        }
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!(nonces.len(), 5, "somebody may have mapped each of them for writing");
    }
    let pages = agent.pools().iter().map(|pool| pool.lane_pages).sum::<u64>();
    assert_eq!(pages, agent.get("a").expect("lane").placement.expect("place").page_count);
}

#[test]
fn the_ends_are_introduced_and_told_of_each_others_end() {
    let agent = with_lanes(&["a"]);
    let (producer, ..) = attached(&agent, "a", Role::Producer);
    let (consumer, ..) = attached(&agent, "a", Role::Consumer);
    let heard = |client: &Raw| client.next().map(|(frame, fd)| (frame.name(), fd.is_some()));
    assert_eq!(heard(&consumer), Some(("GENERATION", true)));
    assert_eq!(heard(&producer), Some(("JOIN", true)));
    drop(producer);
    assert_eq!(heard(&consumer), Some(("ENDED", false)));
    let (producer, grant, _) = attached(&agent, "a", Role::Producer);
    assert_eq!(grant.generation, 2);
    assert_eq!(heard(&consumer), Some(("GENERATION", true)));
    assert_eq!(heard(&producer), Some(("JOIN", true)));
    drop(consumer);
    assert_eq!(heard(&producer), Some(("PEER_GONE", false)));
    agent.delete("a").expect("deleted");
    assert_eq!(heard(&producer), Some(("REVOKED", false)));
}

#[test]
fn a_client_that_reads_no_events_is_cut_off_and_no_problem_for_others() {
    let agent = with_lanes(&["a", "b"]);
    let (deaf, ..) = attached(&agent, "a", Role::Consumer);
    let (mut cycles, mut before) = (0, None);
    while agent.get("a").expect("lane").consumer.expect("end").state() == State::Live {
        // Each producer that comes and goes is two events for the consumer, which says what keeps
        // them coming, and hears nothing.
        let (producer, grant, _) = attached(&agent, "a", Role::Producer);
        drop(producer);
        if let Some(generation) = before.replace(grant.generation) {
            deaf.try_send(&Frame::Drained { generation });
        }
        attached(&agent, "b", Role::Consumer);
        cycles += 1;
        assert!(cycles < 2000, "the client is never cut off");
    }
    assert!(cycles > 100, "an honest client is slow at times: {cycles}");
    drop(deaf);
}

// --- schemas ------------------------------------------------------------------------------------

/// The refusal's reason and message.
fn refused<T>(attached: Result<T, AttachError>) -> (String, String) {
    match attached {
        Err(AttachError::Refused { reason, message }) => (reason, message),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("attached"),
    }
}

#[test]
fn an_end_with_other_messages_is_refused_by_both_schemas_also_after_a_restart() {
    let mut agent = with_lanes(&["a"]);
    let end = || Attach::by_name(agent.attach_socket(), "a").pin(false);
    drop(end().producer().expect("an end that does not say decides nothing"));
    let mut producer = end().typed_producer::<u64>().expect("the first that says decides");
    let by_ticket = || {
        let ticket = agent.ticket("a", v1::Role::Consumer);
        Attach::with_ticket(agent.attach_socket(), &ticket).expect("ticket").pin(false)
    };
    let ticket = by_ticket();
    let (reason, message) = refused(ticket.typed_consumer::<i64>());
    assert_eq!(reason, "SCHEMA_MISMATCH");
    for schema in [u64::SCHEMA, i64::SCHEMA] {
        assert!(message.contains(&format!("{schema:016x}")), "{message}");
    }
    // The refusal did not use the ticket up.
    let mut consumer = ticket.typed_consumer::<u64>().expect("the same messages");
    producer.send(&7, PATIENCE).expect("sent");
    assert_eq!(consumer.recv(PATIENCE).expect("message"), 7);
    drop(consumer);
    let is_gone = |end: &v1::EndStatus| end.state() == State::Gone;
    agent.wait_for("a", "consumer's end", |lane| lane.consumer.as_ref().is_some_and(is_gone));
    let socket = agent.attach_socket();
    agent.kill();
    agent.start_again();
    let consumer = raw::until("the producer came back", || {
        producer.producer_mut().maintain().expect("not revoked");
        let attach = Attach::by_name(&socket, "a").pin(false);
        match refused(attach.typed_consumer::<f64>()).0.as_str() {
            "SCHEMA_MISMATCH" => attach.consumer().ok(),
            _ => None,
        }
    });
    drop(consumer);
}

#[test]
fn a_lane_that_was_made_for_one_schema_takes_no_other_from_its_first_end_on() {
    let agent = Agent::start();
    let uid = nix::unistd::geteuid().as_raw();
    let made = agent.create(v1::LaneSpec { schema_id: u64::SCHEMA, ..open_to("a", uid) });
    assert_eq!(made.expect("lane").schema_id, u64::SCHEMA);
    let end = || Attach::by_name(agent.attach_socket(), "a").pin(false);
    assert_eq!(refused(end().typed_producer::<i64>()).0, "SCHEMA_MISMATCH");
    drop(end().typed_producer::<u64>().expect("the lane's own"));
    // Where the lane leaves it open, it shows what the first end said.
    assert_eq!(agent.create(open_to("b", uid)).expect("lane").schema_id, 0);
    let attach = Attach::by_name(agent.attach_socket(), "b").pin(false);
    let _producer = attach.typed_producer::<f32>().expect("attached");
    assert_eq!(agent.get("b").expect("lane").schema_id, f32::SCHEMA);
}

#[test]
fn of_two_ends_that_say_different_things_at_once_the_later_is_refused() {
    let agent = with_lanes(&["a"]);
    let [first, second] = [(Role::Producer, 1), (Role::Consumer, 2)].map(|(role, schema)| {
        let claim = Claim::Name("a".to_owned());
        let start = Start::Newest;
        let hello = Frame::Hello { role, claim, thread: 1, schema, start, lifeline: false };
        Raw::asks(&agent, &hello)
    });
    first.grant();
    assert_eq!(second.end(), "SCHEMA_MISMATCH", "though nobody has mapped anything yet");
    first.live();
    // And the end is free for one that fits.
    attached(&agent, "a", Role::Consumer);
}

// --- resume -------------------------------------------------------------------------------------

#[test]
fn an_end_that_was_granted_when_the_agent_died_is_taken_back_if_it_does_not_wait_for_live() {
    let mut agent = with_lanes(&["a", "b"]);
    for (role, name) in ROLES.into_iter().zip(["a", "b"]) {
        let ticket = hello(role, claim_of(&ticket_for(&agent, name, role)));
        let granted = Raw::asks(&agent, &ticket);
        let (grant, own) = granted.grant();
        agent.kill();
        agent.start_again();
        let Grant { lane, generation, token, .. } = grant;
        let resume = hello(role, Claim::Resume { lane, generation, token });
        let resumed = || {
            let client = Raw::connect(&agent);
            client.send(&resume, Some(own.as_fd()));
            client
        };
        if role == Role::Consumer {
            assert_eq!(resumed().end(), "FENCED");
            // Nobody got anything for it.
            Raw::asks(&agent, &ticket).grant();
            continue;
        }
        assert_eq!(Raw::asks(&agent, &ticket).end(), "TICKET_INVALID");
        assert_eq!(Raw::asks(&agent, &by_name(role, name)).end(), "ROLE_TAKEN");
        // What its only writer has not closed behind it is shown to nobody.
        assert_ne!(resumed().end(), "closed");
        fcntl(&own, FcntlArg::F_ADD_SEALS(required_seals())).expect("sealed");
        let client = resumed();
        assert_eq!(client.next().map(|(frame, _)| frame), Some(Frame::Live));
        client.send(&Frame::Bye, None);
    }
}

#[test]
fn a_resume_needs_the_token_and_the_very_segment() {
    let mut agent = with_lanes(&["a", "b"]);
    let (_first, grant, own) = attached(&agent, "a", Role::Producer);
    let (_second, _, others) = attached(&agent, "b", Role::Producer);
    let null = File::open("/dev/null").expect("/dev/null");
    let (pipe, _writer) = nix::unistd::pipe().expect("pipe");
    agent.kill();
    agent.start_again();
    producer_is(&agent, "a", State::Unconfirmed);
    let before = fds(&agent);
    let (lane, generation, token) = (grant.lane, grant.generation, grant.token);
    let good = Claim::Resume { lane, generation, token };
    let rows = [
        (Role::Producer, Claim::Resume { lane, generation, token: token ^ 1 }, own.as_fd()),
        (Role::Producer, Claim::Resume { lane, generation: 2, token }, own.as_fd()),
        (Role::Producer, Claim::Resume { lane, generation: 0, token }, own.as_fd()),
        (Role::Consumer, good.clone(), own.as_fd()),
        (Role::Producer, good.clone(), others.as_fd()),
        (Role::Producer, good.clone(), null.as_fd()),
        (Role::Producer, good.clone(), pipe.as_fd()),
    ];
    for (role, claim, fd) in rows {
        let shown = format!("{role:?} {claim:?}");
        let client = Raw::connect(&agent);
        client.send(&hello(role, claim), Some(fd));
        assert_eq!(client.end(), "FENCED", "{shown}");
    }
    until_fds_are(&agent, before);
    producer_is(&agent, "a", State::Unconfirmed);
    let client = Raw::connect(&agent);
    client.send(&hello(Role::Producer, good), Some(own.as_fd()));
    assert_eq!(client.next().map(|(frame, _)| frame), Some(Frame::Live));
    producer_is(&agent, "a", State::Live);
}
