//! The socket of the agent, and how other programs on the node send questions to it.
//!
//! A connection has one question, a line of JSON, and one answer, JSON until its end.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use super::{Answer, Inquiries, Inquiry, Question};

/// How long a program may take to send its question, and to read its answer.
const TRANSFER_LIMIT: Duration = Duration::from_secs(5);
/// How long a program waits for the answer: the agent may be busy with a change.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The maximum size of a question.
const QUESTION_BYTES_MAX: u64 = 256 << 10;

/// The path of the socket of the agent that programs this process's network namespace.
///
/// # Errors
/// When the namespace cannot be read.
pub fn path(directory: &Path) -> io::Result<PathBuf> {
    let inode = fs::metadata("/proc/self/ns/net")?.ino();
    Ok(directory.join(format!("node-{inode}.sock")))
}

/// Starts to accept questions until the process ends. The caller has the lock of the node, so an
/// existing socket belongs to an agent that has ended, and is replaced.
///
/// Policies are enforced even if this fails, so a failure is only logged.
#[must_use]
pub fn start(directory: &Path) -> Inquiries {
    let (sender, inquiries) = mpsc::channel(1);
    let started = path(directory).and_then(|path| {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let thread = std::thread::Builder::new().name("answers".to_owned());
        thread.spawn(move || serve(&listener, &sender))
    });
    if let Err(error) = started {
        warn!(%error, directory = %directory.display(), "failed to open the socket; portcullis inspect cannot ask this agent");
    }
    inquiries
}

fn serve(listener: &UnixListener, sender: &mpsc::Sender<Inquiry>) {
    for stream in listener.incoming() {
        let answered =
            stream.map_err(anyhow::Error::from).and_then(|stream| exchange(stream, sender));
        if let Err(error) = answered {
            debug!(error = format!("{error:#}"), "a question was not answered");
            // For example, the process has no free file descriptors: do not retry in a busy loop.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn exchange(mut stream: UnixStream, sender: &mpsc::Sender<Inquiry>) -> Result<()> {
    stream.set_read_timeout(Some(TRANSFER_LIMIT))?;
    stream.set_write_timeout(Some(TRANSFER_LIMIT))?;
    let mut line = String::new();
    BufReader::new((&stream).take(QUESTION_BYTES_MAX)).read_line(&mut line)?;
    let answer = match serde_json::from_str::<Question>(&line) {
        Ok(question) => {
            let (answer, answered) = oneshot::channel();
            sender.blocking_send(Inquiry { question, answer }).context("the agent ends")?;
            answered.blocking_recv().context("the agent ends")?
        }
        Err(error) => Answer::Unknown(format!("the question is not understood: {error}")),
    };
    stream.write_all(&serde_json::to_vec(&answer)?)?;
    Ok(())
}

/// Asks the agent of this node.
///
/// # Errors
/// When there is no agent, it does not answer, or the question has no answer.
pub fn ask(directory: &Path, question: &Question) -> Result<Answer> {
    let path = path(directory)?;
    let no_agent = || {
        format!(
            "no agent of this node answers at {}; --lock-dir names the directory of its lock, and \
             its network namespace has to be that of the node",
            path.display()
        )
    };
    let mut stream = UnixStream::connect(&path).with_context(no_agent)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(TRANSFER_LIMIT))?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line).context("the agent does not take the question")?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).context("the agent does not answer")?;
    match serde_json::from_slice(&text).context("the agent gave no answer")? {
        Answer::Unknown(why) => bail!(why),
        answer => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_question_is_answered_once_the_agent_takes_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut inquiries = start(directory.path());
        let agent = thread::spawn(move || {
            let Inquiry { question, answer } = inquiries.blocking_recv().unwrap();
            assert_eq!(question, Question::Sets { after: Some("x".to_owned()) });
            answer.send(Answer::Sets(Vec::new())).unwrap();
        });
        let question = Question::Sets { after: Some("x".to_owned()) };
        assert_eq!(ask(directory.path(), &question).unwrap(), Answer::Sets(Vec::new()));
        agent.join().unwrap();
        let mode = fs::metadata(path(directory.path()).unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "only root can ask");
    }

    #[test]
    fn a_socket_that_an_agent_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(path(directory.path()).unwrap()).unwrap());
        let _inquiries = start(directory.path());
        assert!(UnixStream::connect(path(directory.path()).unwrap()).is_ok());
    }

    #[test]
    fn what_is_no_question_is_answered_with_why() {
        let directory = tempfile::tempdir().unwrap();
        let _inquiries = start(directory.path());
        let mut stream = UnixStream::connect(path(directory.path()).unwrap()).unwrap();
        stream.write_all(b"hello\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("not understood"), "{text}");
    }

    #[test]
    fn without_an_agent_the_error_names_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let error = ask(directory.path(), &Question::Node).unwrap_err();
        assert!(error.to_string().contains("no agent of this node answers"), "{error}");
    }
}
