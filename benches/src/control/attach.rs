//! Ends that come and go: each attach from the first system call to the first touched slot.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use laneway_proto::v1;
use laneway_proto::v1::lane_service_client::LaneServiceClient;
use laneway_shm::{Attach, AttachError, Consumer, Producer};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use super::calls::{Kind, create, delete, left, ticket};
use super::timings::{Clock, Timings};
use super::what::What;
use crate::error::BenchError;
use crate::message::PATIENCE;

/// A ticket that nobody issued.
const NO_TICKET: &str = "00000000000000000000000000000000";

/// What is needed to attach to lanes of one's own.
#[derive(Debug)]
pub(crate) struct Attaching<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) client: LaneServiceClient<Channel>,
    pub(crate) socket: PathBuf,
    pub(crate) kind: Kind,
    /// Lanes of one pass.
    pub(crate) lanes: u32,
}

/// What one pass found.
pub(crate) type Found = Vec<(What, Timings)>;

impl Attaching<'_> {
    /// Attaches to fresh lanes in every order that there is, and leaves them again.
    pub(crate) fn pass(&mut self) -> Result<Found, BenchError> {
        let mut found = Vec::new();
        self.knock(&mut found)?;
        let lanes = self.make("a")?;
        let producers = self.producers(What::ProducerAlone, &lanes, &mut found)?;
        let consumers = self.consumers(What::ConsumerJoins, &lanes, &mut found)?;
        leave(What::ProducerLeaves, producers, &mut found);
        self.wait(&lanes, v1::Role::Producer)?;
        let producers = self.producers(What::ProducerAgain, &lanes, &mut found)?;
        leave(What::ConsumerLeaves, consumers, &mut found);
        self.wait(&lanes, v1::Role::Consumer)?;
        let consumers = self.consumers(What::ConsumerAgain, &lanes, &mut found)?;
        drop((producers, consumers));
        self.end(&lanes)?;

        let lanes = self.make("b")?;
        let consumers = self.consumers(What::ConsumerAlone, &lanes, &mut found)?;
        let producers = self.producers(What::ProducerJoins, &lanes, &mut found)?;
        drop((producers, consumers));
        self.end(&lanes)?;
        Ok(found)
    }

    /// What an attach cannot do without: a connection, and one question to the agent.
    fn knock(&self, found: &mut Found) -> Result<(), BenchError> {
        let mut clock = Clock::new();
        let address = UnixAddr::new(&self.socket).map_err(BenchError::io("the socket's path"))?;
        for _ in 0..self.lanes {
            let connected = clock.time(|| {
                let flags = SockFlag::SOCK_CLOEXEC;
                let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
                connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address)
            });
            connected.map_err(BenchError::io("cannot connect to the agent"))?;
        }
        note(What::Connect, &clock, found);
        let mut clock = Clock::new();
        for _ in 0..self.lanes {
            clock.time(|| match Attach::with_ticket(&self.socket, NO_TICKET)?.producer() {
                Err(AttachError::Refused { .. }) => Ok(()),
                Err(error) => Err(BenchError::Attach(error)),
                Ok(_) => Err(BenchError::Call {
                    what: "attach without a ticket",
                    why: "the agent let a stranger in".to_owned(),
                }),
            })?;
        }
        note(What::Refusal, &clock, found);
        Ok(())
    }

    pub(super) fn make(&mut self, prefix: &str) -> Result<Vec<String>, BenchError> {
        let names: Vec<_> = (0..self.lanes).map(|number| format!("{prefix}-{number}")).collect();
        self.runtime.block_on(async {
            for name in &names {
                create(&mut self.client, name, self.kind).await?;
            }
            Ok(names)
        })
    }

    pub(super) fn tickets(
        &mut self,
        lanes: &[String],
        role: v1::Role,
    ) -> Result<Vec<String>, BenchError> {
        self.runtime.block_on(async {
            let mut tickets = Vec::new();
            for lane in lanes {
                tickets.push(ticket(&mut self.client, lane, role).await?);
            }
            Ok(tickets)
        })
    }

    /// Attaches and sends a first message on each lane.
    fn producers(
        &mut self,
        what: What,
        lanes: &[String],
        found: &mut Found,
    ) -> Result<Vec<Producer>, BenchError> {
        let (mut clock, mut ends) = (Clock::new(), Vec::new());
        for ticket in self.tickets(lanes, v1::Role::Producer)? {
            ends.push(clock.time(|| producer(&self.socket, &ticket))?);
        }
        note(what, &clock, found);
        Ok(ends)
    }

    /// Attaches and looks for a message on each lane; where somebody sent one, also until it is
    /// received.
    fn consumers(
        &mut self,
        what: What,
        lanes: &[String],
        found: &mut Found,
    ) -> Result<Vec<Consumer>, BenchError> {
        let (mut clock, mut first, mut ends) = (Clock::new(), Clock::new(), Vec::new());
        for ticket in self.tickets(lanes, v1::Role::Consumer)? {
            let start = Instant::now();
            let mut end = clock.time(|| -> Result<_, BenchError> {
                let mut end = consumer(&self.socket, &ticket)?;
                end.poll()?;
                Ok(end)
            })?;
            // Two ways to the message that waits for it.
            match what {
                What::ConsumerJoins => drop(end.recv(PATIENCE)?),
                What::ConsumerAgain => receive_asking(&mut end)?,
                _ => {}
            }
            first.count(start.elapsed());
            ends.push(end);
        }
        note(what, &clock, found);
        match what {
            What::ConsumerJoins => note(What::ConsumerReceives, &first, found),
            What::ConsumerAgain => note(What::ConsumerAsks, &first, found),
            _ => {}
        }
        Ok(ends)
    }

    /// Waits until the agent knows that all these ends are free.
    fn wait(&mut self, lanes: &[String], role: v1::Role) -> Result<(), BenchError> {
        self.runtime.block_on(async {
            for lane in lanes {
                left(&mut self.client, lane, role).await?;
            }
            Ok(())
        })
    }

    pub(super) fn end(&mut self, lanes: &[String]) -> Result<(), BenchError> {
        self.runtime.block_on(async {
            for lane in lanes {
                delete(&mut self.client, lane).await?;
            }
            Ok(())
        })
    }
}

/// Attaches and sends one message.
pub(crate) fn producer(
    socket: impl AsRef<std::path::Path>,
    ticket: &str,
) -> Result<Producer, BenchError> {
    let mut end = Attach::with_ticket(socket, ticket)?.pin(false).producer()?;
    end.send(&1u64.to_le_bytes(), Duration::ZERO)?;
    Ok(end)
}

/// Attaches and touches nothing yet.
pub(crate) fn consumer(
    socket: impl AsRef<std::path::Path>,
    ticket: &str,
) -> Result<Consumer, BenchError> {
    Ok(Attach::with_ticket(socket, ticket)?.pin(false).consumer()?)
}

/// Receives one message and asks the agent for news all the time, which `recv` does rarely.
pub(crate) fn receive_asking(end: &mut Consumer) -> Result<(), BenchError> {
    let start = Instant::now();
    while end.poll()?.is_none() {
        end.maintain()?;
        if start.elapsed() > PATIENCE {
            return Err(BenchError::Peer(PATIENCE));
        }
    }
    Ok(())
}

fn leave<T>(what: What, ends: Vec<T>, found: &mut Found) {
    let mut clock = Clock::new();
    for end in ends {
        let Ok(()) = clock.time(|| {
            drop(end);
            Ok::<(), std::convert::Infallible>(())
        });
    }
    note(what, &clock, found);
}

fn note(what: What, clock: &Clock, found: &mut Found) {
    found.extend(clock.in_turn().map(|timings| (what, timings)));
}
