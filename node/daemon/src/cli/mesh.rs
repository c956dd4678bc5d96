//! `barn mesh …`, `barn join`, `barn id`: who takes part.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use barn_protocol::{
    invite::{INVITE_ADDRESSES_MAX, Invite},
    roster::{Capabilities, SignedRoster},
};
use serde_json::json;

use super::{MeshVerb, Outcome, control, lifecycle};
use crate::{
    enrol,
    home::{Home, HomeError},
    setup::Setup,
};

/// How long `barn mesh invite` waits for the node to listen, so that the token can say where.
const LISTEN_WAIT: Duration = Duration::from_secs(3);

/// `barn mesh …`.
pub(super) fn run(setup: &Setup, verb: MeshVerb) -> Outcome {
    match verb {
        MeshVerb::Init => init(setup),
        MeshVerb::Invite { minutes } => invite(setup, minutes),
        MeshVerb::Allow { id, name, publish } => {
            let capabilities = Capabilities { publish, ..Capabilities::OFFICE };
            let roster = enrol::allow(&setup.home, id, name.as_deref(), capabilities)?;
            let name = roster.roster().member(&id).map_or_else(String::new, |m| m.name.clone());
            eprintln!("{name} is on the roster (epoch {})", roster.roster().epoch);
            tell_node(setup);
            Ok(ExitCode::SUCCESS)
        }
        MeshVerb::Revoke { member } => {
            let roster = enrol::revoke(&setup.home, &member)?;
            eprintln!("{member} is struck from the roster (epoch {})", roster.roster().epoch);
            tell_node(setup);
            Ok(ExitCode::SUCCESS)
        }
        MeshVerb::Members => members(&setup.home),
    }
}

/// `barn join TOKEN`.
pub(super) fn join(setup: &Setup, mut token: Invite, peers: &[SocketAddr], name: Option<String>) -> Outcome {
    token.addresses.splice(0..0, peers.iter().copied());
    token.addresses.truncate(INVITE_ADDRESSES_MAX);
    if let Some(roster) = setup.home.roster()?
        && roster.roster().mesh != token.mesh
    {
        let dir = setup.home.dir().display().to_string();
        return Err(enrol::EnrolError::InMesh { mesh: roster.roster().mesh, dir }.into());
    }
    let name = name.unwrap_or_else(|| setup.config.node_name());
    let identity = setup.home.identity()?;
    eprintln!("asking {} to let this machine in…", token.inviter.short());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let roster = runtime.block_on(barn_mesh::join(&token, &identity, &name))?;
    setup.home.keep_roster(&roster)?;
    let id = identity.id();
    let known_as = roster.roster().member(&id).map_or(name, |m| m.name.clone());
    eprintln!(
        "this machine is {known_as} in mesh {}, with {} members",
        token.mesh.short(),
        roster.roster().members.len()
    );
    tell_node(setup);
    lifecycle::ensure_running(setup)?;
    Ok(ExitCode::SUCCESS)
}

/// `barn id`.
pub(super) fn id(setup: &Setup) -> Outcome {
    println!("{}", setup.home.identity()?.id());
    Ok(ExitCode::SUCCESS)
}

fn init(setup: &Setup) -> Outcome {
    let roster = enrol::found_mesh(&setup.home, &setup.config.node_name())?;
    eprintln!("founded mesh {} with this machine as its first member", roster.roster().mesh.short());
    eprintln!("hint: `barn mesh invite` prints a token for the next machine");
    tell_node(setup);
    lifecycle::ensure_running(setup)?;
    Ok(ExitCode::SUCCESS)
}

fn invite(setup: &Setup, minutes: u64) -> Outcome {
    lifecycle::ensure_running(setup)?;
    let addresses = listening(setup);
    let invite = enrol::invite(&setup.home, &addresses, minutes.saturating_mul(60))?;
    eprintln!("on the new machine, within {minutes} minutes, once:");
    eprintln!("  barn join TOKEN");
    println!("{invite}");
    Ok(ExitCode::SUCCESS)
}

fn members(home: &Home) -> Outcome {
    let roster = home.roster()?.ok_or(HomeError::NoMesh)?;
    let own = home.identity()?.id();
    for member in &roster.roster().members {
        let here = if member.id == own { "  (this machine)" } else { "" };
        println!("{:<24} {}{here}", member.name, member.id);
    }
    eprintln!("{}", summary(&roster));
    Ok(ExitCode::SUCCESS)
}

fn summary(roster: &SignedRoster) -> String {
    let roster = roster.roster();
    format!("mesh {}, epoch {}, {} members", roster.mesh.short(), roster.epoch, roster.members.len())
}

/// Where the node listens; it may have been told of its mesh only just now.
fn listening(setup: &Setup) -> Vec<SocketAddr> {
    let end = std::time::Instant::now() + LISTEN_WAIT;
    loop {
        let answer = control::call(&setup.socket, "addresses", &json!({}));
        let found: Vec<SocketAddr> =
            answer.ok().and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default();
        if !found.is_empty() || std::time::Instant::now() >= end {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A node that runs reads the roster again; one that does not will read it when it starts.
fn tell_node(setup: &Setup) {
    let _ = control::call(&setup.socket, "roster", &json!({}));
}
