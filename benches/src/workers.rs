//! The two worker processes as the benchmark sees them: orders in, answers out.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use crate::agent::{Lane, Lanes};
use crate::child;
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::task::{Answer, CrowdTicket, Order, Setup, Side, Task, Tickets};

/// How long a worker may take beyond the time of its task.
const PATIENCE: Duration = Duration::from_secs(30);

/// Both workers, attached and acquainted.
#[derive(Debug)]
pub(crate) struct Workers {
    initiator: Worker,
    responder: Worker,
}

/// A child in a hidden role that takes orders and gives answers.
#[derive(Debug)]
pub(crate) struct Worker {
    side: Side,
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Workers {
    /// Starts both, each pinned to its cpu, and attaches them to `lanes`.
    pub(crate) fn start(
        cpus: Option<(u32, u32)>,
        socket: &Path,
        lanes: &[Lanes],
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        Self::with(cpus, false, socket, lanes, interrupt)
    }

    /// Starts both without a cpu: the lanes say who gets one, and the library pins where `pin`
    /// says so.
    pub(crate) fn left_alone(
        pin: bool,
        socket: &Path,
        lanes: &Lanes,
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        Self::with(None, pin, socket, std::slice::from_ref(lanes), interrupt)
    }

    fn with(
        cpus: Option<(u32, u32)>,
        pin: bool,
        socket: &Path,
        lanes: &[Lanes],
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        let tickets = |side| lanes.iter().map(|lanes| lanes.tickets(side)).collect();
        let start = |side: Side| {
            let (socket, lanes) = (socket.to_path_buf(), tickets(side));
            let setup = Setup { side, cpu: side.of(cpus), pin, socket, lanes };
            Worker::start("worker", side, &setup)
        };
        // A producer that comes later knows every reader from its grant.
        let mut responder = start(Side::Responder)?;
        responder.answer(Duration::ZERO, interrupt)?;
        let mut initiator = start(Side::Initiator)?;
        initiator.answer(Duration::ZERO, interrupt)?;
        let mut workers = Self { initiator, responder };
        workers.tell(&Order::Greet)?;
        workers.answers(Duration::ZERO, interrupt)?;
        Ok(workers)
    }

    /// Measures; the answer with the figures.
    pub(crate) fn run(&mut self, task: Task, interrupt: &Interrupt) -> Result<Answer, BenchError> {
        self.tell(&Order::Run(task))?;
        let time = Duration::from_millis(task.millis);
        let (initiator, responder) = self.answers(time, interrupt)?;
        Ok(match initiator {
            Answer::Done => responder,
            figures => figures,
        })
    }

    fn tell(&mut self, order: &Order) -> Result<(), BenchError> {
        // The one that waits first: the other one's first message then meets it awake.
        self.responder.tell(order)?;
        self.initiator.tell(order)
    }

    fn answers(
        &mut self,
        time: Duration,
        interrupt: &Interrupt,
    ) -> Result<(Answer, Answer), BenchError> {
        let initiator = self.initiator.answer(time, interrupt)?;
        let responder = self.responder.answer(time, interrupt)?;
        Ok((initiator, responder))
    }
}

impl Worker {
    /// Starts a child in `role` and hands it its first line.
    pub(crate) fn start(
        role: &str,
        side: Side,
        setup: &impl serde::Serialize,
    ) -> Result<Self, BenchError> {
        let spawned = child::command(role)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(BenchError::io("cannot start a worker"))?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let Some(answers) = answers.map(BufReader::new) else {
            unreachable!("standard output was asked to be a pipe");
        };
        let mut worker = Self { side, child, orders, answers };
        worker.tell(setup)?;
        Ok(worker)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has done what it was told.
    pub(crate) fn done(&mut self, interrupt: &Interrupt) -> Result<(), BenchError> {
        self.answer(Duration::ZERO, interrupt).map(|_| ())
    }

    /// Gives it an order.
    pub(crate) fn tell(&mut self, value: &impl serde::Serialize) -> Result<(), BenchError> {
        let mut line = serde_json::to_string(value).map_err(BenchError::json("an order"))?;
        line.push('\n');
        let Some(orders) = &mut self.orders else {
            return Ok(());
        };
        orders
            .write_all(line.as_bytes())
            .map_err(BenchError::io(format!("cannot reach the {} worker", self.side.as_str())))
    }

    /// Its next answer, which may take [`PATIENCE`] longer than `time`.
    pub(crate) fn answer(
        &mut self,
        time: Duration,
        interrupt: &Interrupt,
    ) -> Result<Answer, BenchError> {
        let side = self.side.as_str();
        let waited = time + PATIENCE;
        if !interrupt.readable(self.answers.get_ref().as_fd(), waited)? {
            return Err(BenchError::Silent { side, waited });
        }
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(BenchError::io("cannot hear a worker"))?;
        if line.is_empty() {
            let message = match self.child.wait() {
                Ok(status) => format!("it ended, {status}"),
                Err(error) => error.to_string(),
            };
            return Err(BenchError::Worker { side, message });
        }
        match serde_json::from_str(&line).map_err(BenchError::json("an answer"))? {
            Answer::Failed(message) => Err(BenchError::Worker { side, message }),
            answer => Ok(answer),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // End of input ends an idle worker; the signal ends one that spins.
        drop(self.orders.take());
        child::end(&mut self.child);
    }
}

/// Which of a lane's tickets.
type Ticket = fn(&Lane) -> String;

impl Lanes {
    fn tickets(&self, side: Side) -> Tickets {
        let (sends, receives) =
            (|lane: &Lane| lane.producer.clone(), |lane: &Lane| lane.consumer.clone());
        let streams =
            |ticket: Ticket| self.streams.iter().map(|lane| (lane.slots, ticket(lane))).collect();
        let packed = |ticket: Ticket| self.packed.as_ref().map(ticket);
        let (there, back) = match side {
            Side::Initiator => (sends as Ticket, receives as Ticket),
            Side::Responder => (receives as Ticket, sends as Ticket),
        };
        let echo = |(ping, pong): &(Lane, Lane)| (ping.slots, there(ping), back(pong));
        let echoes = self.echoes.iter().map(echo).collect();
        let crowds = self.crowds.iter().map(|(readers, lane)| CrowdTicket {
            readers: *readers,
            slots: lane.slots,
            producer: if side == Side::Initiator { lane.producer.clone() } else { String::new() },
            name: lane.name.clone(),
        });
        let crowds = crowds.collect();
        let (streams, packed) = (streams(there), packed(there));
        Tickets { bytes: self.bytes, echoes, streams, packed, crowds }
    }
}
