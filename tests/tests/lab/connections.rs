//! Connections that are held, and all the ways in which they end.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use portcullis_lab::{
    Behaviour, Connection, ConnectionSpec, DEFAULT_TIMEOUT, End, Endpoint, Family, IptablesVariant,
    Lab, Listener, Outcome, PodSpec, Probe,
};

use super::small;

const CLIENT: &str = "a/one";
const SOURCE_PORT: u16 = 41_000;

/// A lab with a server `a/server` on n2 whose port 1000 + n has the n-th behaviour.
fn lab_with(behaviours: &[Behaviour], variant: IptablesVariant) -> Result<Lab> {
    let server = PodSpec::new("a", "server", "n2");
    let server = (1000..)
        .zip(behaviours)
        .fold(server, |pod, (port, behaviour)| pod.listen(Listener::behaving(port, *behaviour)));
    small().iptables(variant).pod(server).build()
}

fn spec(lab: &Lab, family: Family, port: u16) -> Result<ConnectionSpec> {
    Ok(ConnectionSpec {
        from: Endpoint::pod(CLIENT),
        to: SocketAddr::new(lab.pod("a/server")?.address(family)?, port),
        source_port: Some(SOURCE_PORT),
        timeout: DEFAULT_TIMEOUT,
    })
}

#[test]
fn an_echo_connection_is_held_and_measured() -> Result<()> {
    let lab = lab_with(&[Behaviour::Echo], IptablesVariant::Nft)?;
    for &family in lab.families().each() {
        let to = lab.pod("a/server")?.address(family)?;
        let mut connection = lab.open_connection(&Endpoint::pod(CLIENT), to, 1000)?;
        assert_eq!(connection.identity(), "a/server");
        assert_eq!(connection.seen_from(), Some(connection.local_addr()?));
        for _ in 0..100 {
            assert!(connection.exchange()? < DEFAULT_TIMEOUT);
        }
        connection.half_close()?;
        assert_eq!(connection.wait_end()?, End::Closed);
    }
    Ok(())
}

#[test]
fn an_exchange_fails_while_packets_are_dropped_and_goes_on_after() -> Result<()> {
    let lab = lab_with(&[Behaviour::Echo], IptablesVariant::Nft)?;
    let to = lab.pod("a/server")?.address(Family::V4)?;
    let mut connection = lab.open_connection(&Endpoint::pod(CLIENT), to, 1000)?;
    connection.exchange()?;
    lab.node("n1")?.shell("iptables-nft -I FORWARD -p tcp -j DROP")?;
    assert!(connection.exchange().is_err());
    lab.node("n1")?.shell("iptables-nft -D FORWARD -p tcp -j DROP")?;
    let mut tries = 0..20;
    assert!(tries.any(|_| connection.exchange().is_ok()), "TCP sends again within seconds");
    Ok(())
}

#[test]
fn a_server_ends_a_connection_as_it_was_told() -> Result<()> {
    let behaviours = [
        Behaviour::Banner,
        Behaviour::HoldOpen,
        Behaviour::HalfClose,
        Behaviour::ResetOnData,
        Behaviour::CloseOnData,
        Behaviour::ResetAfterAccept,
    ];
    let lab = lab_with(&behaviours, IptablesVariant::Nft)?;
    let check = |port: u16, act: fn(&mut Connection) -> Result<()>, expected: End| -> Result<()> {
        for &family in lab.families().each() {
            let mut connection =
                lab.connect(&ConnectionSpec { source_port: None, ..spec(&lab, family, port)? })?;
            act(&mut connection)?;
            assert_eq!(connection.wait_end()?, expected, "port {port}");
        }
        Ok(())
    };
    let nothing: fn(&mut Connection) -> Result<()> = |_| Ok(());
    check(1000, nothing, End::Closed)?;
    check(1001, nothing, End::StillOpen)?;
    check(1001, Connection::half_close, End::StillOpen)?;
    check(1002, nothing, End::Closed)?;
    check(1003, nothing, End::StillOpen)?;
    check(1003, |connection| connection.send(b"x"), End::Reset)?;
    check(1004, |connection| connection.send(b"x"), End::Closed)?;
    let server = lab.pod("a/server")?.address(Family::V4)?;
    let probe = Probe::tcp(Endpoint::pod(CLIENT), server, 1005);
    assert_eq!(lab.probe(&probe, DEFAULT_TIMEOUT)?, Outcome::Reset);
    Ok(())
}

/// What the SYN rule of the dataplane is against, so that a test of it can fail.
#[test]
fn a_reset_connection_comes_back_through_a_rule_that_accepts_established() -> Result<()> {
    for variant in [IptablesVariant::Legacy, IptablesVariant::Nft] {
        let lab = lab_with(&[Behaviour::ResetOnData], variant)?;
        for &family in lab.families().each() {
            let spec = spec(&lab, family, 1000)?;
            let once = || -> Result<()> {
                let mut connection = lab.connect(&spec)?;
                assert_eq!(connection.local_addr()?.port(), SOURCE_PORT);
                connection.send(b"x")?;
                assert_eq!(connection.wait_end()?, End::Reset);
                Ok(())
            };
            once()?;
            let iptables = variant.program(family);
            lab.node("n1")?.shell(&format!(
                "{iptables} -w -I FORWARD -p tcp -j DROP
                 {iptables} -w -I FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT"
            ))?;
            once().and_then(|()| once())?;
            let other = ConnectionSpec { source_port: Some(SOURCE_PORT + 1), ..spec.clone() };
            assert!(lab.connect(&other).is_err(), "a new connection is dropped");
        }
    }
    Ok(())
}

#[test]
fn the_same_source_port_is_used_again_at_once() -> Result<()> {
    let lab = lab_with(&[Behaviour::Banner, Behaviour::Echo], IptablesVariant::Nft)?;
    for &family in lab.families().each() {
        for _ in 0..10 {
            let mut closed_by_server = lab.connect(&spec(&lab, family, 1000)?)?;
            assert_eq!(closed_by_server.wait_end()?, End::Closed);
            closed_by_server.close();
            lab.connect(&spec(&lab, family, 1001)?)?.reset()?;
            // This one leaves TIME_WAIT at the client.
            let patient =
                ConnectionSpec { timeout: Duration::from_secs(3), ..spec(&lab, family, 1001)? };
            let mut closed_by_client = lab.connect(&patient)?;
            closed_by_client.half_close()?;
            assert_eq!(closed_by_client.wait_end()?, End::Closed);
        }
        let probe = Probe::tcp(Endpoint::pod(CLIENT), spec(&lab, family, 1000)?.to.ip(), 1000);
        let seen = lab.observe_all(&[probe.from_port(SOURCE_PORT)], Duration::from_secs(1))?;
        let ports: Vec<_> = seen.iter().filter_map(|seen| seen.seen_from).collect();
        assert!(ports.iter().all(|seen| seen.port() == SOURCE_PORT) && ports.len() == 1);
    }
    Ok(())
}
