//! The attach socket: accepts, counts, and never lets one user take every place.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use rustix::net::{SocketFlags, accept_with};
use tokio::io::Interest;
use tokio::task::spawn_local;
use tracing::{error, info, warn};

use super::peer::identify;
use super::registered;
use super::session::serve;
use crate::actor::Shared;
use crate::config::{Config, LimitsConfig};

/// Pause after the kernel refused a connection for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bound socket. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    limits: LimitsConfig,
    _file: SocketFile,
}

impl Listener {
    /// Binds the attach socket. A file left by a dead agent is replaced; the directory's lock has
    /// made sure that no live one uses it.
    ///
    /// # Errors
    /// The kernel's word, for instance for a directory that this user may not write.
    pub fn bind(config: &Config) -> io::Result<Self> {
        let path = config.attach_socket();
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
            // Whoever may attach must be able to reach the socket; nothing else is in there.
            fs::set_permissions(dir, Permissions::from_mode(0o755))?;
        }
        let file = SocketFile::replacing(path.clone())?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(&path)?)?;
        fs::set_permissions(&path, Permissions::from_mode(config.agent.attach_mode))?;
        listen(&fd, Backlog::new(128)?)?;
        Ok(Self { fd, limits: config.limits.clone(), _file: file })
    }

    /// Accepts until the task is dropped. Runs on the actor's thread.
    pub(crate) async fn run(self, controller: Shared) {
        let fd = match registered(self.fd, Interest::READABLE) {
            Ok(fd) => fd,
            Err(error) => return error!(%error, "the attach socket cannot be watched"),
        };
        let places = Rc::new(Places {
            in_all: self.limits.attach_connections,
            per_uid: self.limits.attach_connections_per_uid,
            taken: RefCell::default(),
        });
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            let accepted = fd.async_io(Interest::READABLE, |fd| Ok(accept_with(fd, flags)?)).await;
            match accepted {
                Ok(socket) => {
                    step!("wake and accept");
                    admit(socket, &places, &controller);
                }
                // Out of descriptors, most likely: a pause, because the connection still waits.
                Err(error) => {
                    warn!(%error, "attach connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn admit(socket: OwnedFd, places: &Rc<Places>, controller: &Shared) {
    let Ok(peer) = identify(&socket) else { return };
    let uid = peer.record.uid;
    step!("who is it");
    let Some(place) = Places::take(places, uid) else {
        info!(uid, "attach connection refused: too many");
        return;
    };
    let controller = Rc::clone(controller);
    spawn_local(async move {
        serve(socket, peer, controller).await;
        drop(place);
    });
}

/// The name of a bound socket. Removed when dropped.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl SocketFile {
    /// Makes way for a socket: removes the file that a dead agent left.
    ///
    /// # Errors
    /// The file is there and cannot be removed.
    pub(crate) fn replacing(path: PathBuf) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Self(path)),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nobody can be told about a file that will not go.
        let _ = fs::remove_file(&self.0);
    }
}

/// How many connections there may be, and are.
#[derive(Debug)]
struct Places {
    in_all: u32,
    per_uid: u32,
    taken: RefCell<HashMap<u32, u32>>,
}

/// One connection's place. Given back when dropped.
#[derive(Debug)]
struct Place {
    places: Rc<Places>,
    uid: u32,
}

impl Places {
    fn take(places: &Rc<Self>, uid: u32) -> Option<Place> {
        let mut taken = places.taken.borrow_mut();
        let all: u32 = taken.values().sum();
        let own = taken.entry(uid).or_insert(0);
        if all >= places.in_all || *own >= places.per_uid {
            taken.retain(|_, own| *own > 0);
            return None;
        }
        *own += 1;
        Some(Place { places: Rc::clone(places), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.borrow_mut();
        if let Some(own) = taken.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}
