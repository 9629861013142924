//! A region: its length, and the descriptor of its memory where it has bytes.

use std::num::NonZeroUsize;

use super::leaf;
use crate::{Region, handoff::RestoreError};

leaf!(
    Region,
    Region,
    |value, out| {
        if let Some(hold) = out.hold() {
            value.owned_under(hold);
        }
        out.length(value.len())?;
        out.scalar(value.file().is_some())?;
        value.file().map_or(Ok(()), |file| out.descriptor(file))
    },
    |input| {
        let length = NonZeroUsize::new(input.length()?);
        match (length, input.scalar()?) {
            (Some(length), true) => {
                let region = Region::received(input.descriptor()?, length)
                    .map_err(|error| RestoreError::io("the memory of a region cannot be used", error))?;
                if let Some(hold) = input.hold() {
                    region.owned_under(hold);
                }
                Ok(region)
            }
            (None, false) => Ok(Region::new()),
            (Some(length), false) => {
                Err(RestoreError::new(format!("{length} bytes are claimed, and no memory that has them")))
            }
            (None, true) => Err(RestoreError::new("memory is sent for a region without bytes")),
        }
    }
);
