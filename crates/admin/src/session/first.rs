//! The link by which the first owner sets their password: there until it is used, or until they sign in otherwise.

use serde::{Deserialize, Serialize};
use tollgate_core::secret::{Keyring, Secret, hex};
use tollgate_core::{Clock, Error, Result, Timestamp, UserId};
use tollgate_store::{Row, Tx, params};

use crate::token::{self, Token};

const PURPOSE: &str = "first sign-in";
/// Its row in the table of what the installation knows of itself.
const NAME: &str = "first_sign_in";
const LASTS_SECONDS: i64 = 86_400;

#[derive(Serialize, Deserialize)]
struct Offer {
    owner: UserId,
    until: Timestamp,
    pepper_version: i64,
    /// In hexadecimal.
    verifier: String,
}

/// Makes the token of a link that is good once, for a day.
pub(crate) async fn offer(tx: &mut Tx, clock: &Clock, keyring: &Keyring, owner: UserId) -> Result<Secret> {
    let token = Token::new(keyring, PURPOSE);
    let offer = Offer {
        owner,
        until: clock.now().plus_seconds(LASTS_SECONDS),
        pepper_version: token.pepper_version,
        verifier: hex(&token.verifier),
    };
    let offer = serde_json::to_string(&offer).map_err(|error| Error::internal(error.to_string()))?;
    tx.execute("INSERT INTO installation (name, value) VALUES ($1, $2)", &params![NAME, offer]).await?;
    Ok(token.text)
}

/// Whose link it is, if it is good still.
pub(super) async fn owner_of(
    tx: &mut Tx,
    keyring: &Keyring,
    now: Timestamp,
    token: &Secret,
) -> Result<UserId> {
    let unfit = |message: &str| Err(Error::invalid("token", message).code("unfit_link"));
    let Some(offer) = offered(tx).await? else {
        return unfit("This link is used up. Sign in, or set a password with an admin key.");
    };
    let verifiers = token::verifiers(keyring, PURPOSE, token.reveal());
    let fits = |(version, verifier): &(i64, Vec<u8>)| {
        *version == offer.pepper_version && hex(verifier) == offer.verifier
    };
    if !verifiers.iter().any(fits) {
        return unfit("This is no link that `tollgate setup` has printed here.");
    }
    if now >= offer.until {
        return unfit("The link was good for a day, which is over. Set a password with an admin key.");
    }
    Ok(offer.owner)
}

/// Ends the link of somebody, if there is one: they have signed in by it or otherwise, or somebody else had set their password.
pub(crate) async fn end(tx: &mut Tx, owner: UserId) -> Result<()> {
    if offered(tx).await?.is_some_and(|offer| offer.owner == owner) {
        tx.execute("DELETE FROM installation WHERE name = $1", &params![NAME]).await?;
    }
    Ok(())
}

async fn offered(tx: &mut Tx) -> Result<Option<Offer>> {
    let row: Option<Row> =
        tx.optional("SELECT value FROM installation WHERE name = $1", &params![NAME]).await?;
    let read = |row: Row| {
        let text: String = row.at(0)?;
        serde_json::from_str(&text).map_err(|error| Error::internal(error.to_string()))
    };
    row.map(read).transpose()
}
