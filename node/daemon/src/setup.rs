//! What the environment says before anything runs: where the state, the socket and the settings are.

use std::path::PathBuf;

use barn_wrapper::places::{Places, PlacesError};

use crate::{
    config::{Config, ConfigError},
    home::{Home, HomeError},
};

/// Everything a verb starts from.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The state directory, opened.
    pub home: Home,
    /// The settings.
    pub config: Config,
    /// The node's socket.
    pub socket: PathBuf,
}

/// Why no verb can run here.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The state directory is at fault.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The settings are.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no place for the state.
    #[error("cannot tell where to keep state\nhint: set BARN_HOME to an absolute path")]
    NoPlace(#[source] PlacesError),
}

impl Setup {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// When the state directory cannot be used or the settings are invalid.
    pub fn from_environment() -> Result<Self, SetupError> {
        let places = Places::of_this_process().map_err(SetupError::NoPlace)?;
        let home = Home::open(&places.home)?;
        let config = Config::read(&places.config)?;
        Ok(Self { home, config, socket: places.socket })
    }
}
