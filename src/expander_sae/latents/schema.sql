-- The feature store, format 1: everything that is shown of the latents of one or more SAEs, in one SQLite file.
-- docs/guides/latent-store.md defines every number. Blobs are little-endian. A view is one SAE read in one way.

CREATE TABLE meta(          -- one JSON value a key: format, made_by, model_id, revision, layer, hook, split, tokens,
    key   TEXT PRIMARY KEY, -- documents, context, text_source, created, logit_lens
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE views(
    id        INTEGER PRIMARY KEY, -- from 0
    name      TEXT NOT NULL UNIQUE,
    sae       TEXT NOT NULL,       -- its short name
    folder    TEXT NOT NULL,       -- where it was read from
    sha256    TEXT NOT NULL,       -- of its learned numbers; the same for every reading of one SAE
    reading   TEXT NOT NULL,
    kind      TEXT NOT NULL,
    d_in      INTEGER NOT NULL,
    n_latents INTEGER NOT NULL,
    degree    INTEGER,             -- entries of a column, on average; NULL: a dense dictionary
    k         INTEGER NOT NULL,
    tokens    INTEGER NOT NULL,    -- that were read
    fvu       REAL,
    dead      INTEGER NOT NULL,    -- latents that never fired on them
    energy    REAL NOT NULL,       -- mean over tokens of the sum of squared codes
    config    TEXT NOT NULL,       -- JSON: what else is on record of the SAE
    overview  TEXT NOT NULL        -- JSON: {"density": {"edges": [...], "counts": [...]}, "energy": {...}}, decades
);

CREATE TABLE latents(        -- every latent has a row; firings 0: it never fired
    view          INTEGER NOT NULL,
    latent        INTEGER NOT NULL,
    firings       INTEGER NOT NULL,  -- tokens on which its code is not zero
    mean          REAL,              -- of |code| over its firings
    max           REAL,              -- of |code|
    energy        REAL NOT NULL,     -- its share of the squared codes of the view
    token_entropy REAL,              -- bits
    specific      REAL NOT NULL,     -- bits
    top           REAL,              -- where the last bin of the histogram ends: a power of two
    histogram     BLOB,              -- uint32 [32]: firings by |code| in equal bins from 0 to top
    PRIMARY KEY(view, latent)
) WITHOUT ROWID;

CREATE TABLE contexts(
    view       INTEGER NOT NULL,
    latent     INTEGER NOT NULL,
    part       INTEGER NOT NULL,  -- 0: the highest activations, one of a block; 1 to 4: quarters of its firings by
    rank       INTEGER NOT NULL,  -- activation, 4 the highest; each by falling activation
    activation REAL NOT NULL,     -- |code| at the position
    block      INTEGER NOT NULL,
    position   INTEGER NOT NULL,  -- in the block
    first      INTEGER NOT NULL,  -- token of the window, in the block
    length     INTEGER NOT NULL,  -- tokens of the window
    fires      BLOB NOT NULL,     -- (uint16 place in the window, float32 code) where the latent's code is not zero
    PRIMARY KEY(view, latent, part, rank)
) WITHOUT ROWID;

CREATE TABLE pool(          -- windows drawn evenly over the text, one of a block at most
    id     INTEGER PRIMARY KEY,
    block  INTEGER NOT NULL,
    first  INTEGER NOT NULL,  -- token of the window, in the block
    length INTEGER NOT NULL
);

CREATE TABLE pool_fires(    -- which latents fire anywhere in them: all others are known to be silent there
    view    INTEGER NOT NULL,
    id      INTEGER NOT NULL,
    latents BLOB NOT NULL,  -- uint32, rising
    PRIMARY KEY(view, id)
) WITHOUT ROWID;

CREATE TABLE blocks(        -- of text; only those that contexts and the pool show
    id       INTEGER PRIMARY KEY,
    document INTEGER NOT NULL,
    tokens   BLOB NOT NULL  -- uint32 ids
);

CREATE TABLE vocabulary(    -- only ids that occur
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL      -- as the tokenizer says it, control characters and all
);

CREATE TABLE top_tokens(    -- on which a latent fires most often
    view    INTEGER NOT NULL,
    latent  INTEGER NOT NULL,
    rank    INTEGER NOT NULL,
    token   INTEGER NOT NULL,
    firings INTEGER NOT NULL,
    mean    REAL NOT NULL,
    PRIMARY KEY(view, latent, rank)
) WITHOUT ROWID;

CREATE TABLE logits(        -- rank 1, 2, ...: the tokens promoted most; -1, -2, ...: suppressed most
    view   INTEGER NOT NULL,
    latent INTEGER NOT NULL,
    rank   INTEGER NOT NULL,
    token  INTEGER NOT NULL,
    value  REAL NOT NULL,
    PRIMARY KEY(view, latent, rank)
) WITHOUT ROWID;

CREATE TABLE neighbours(
    view   INTEGER NOT NULL,
    latent INTEGER NOT NULL,
    how    TEXT NOT NULL,    -- cosine: of columns; together: of the sets of tokens; rows: shared, as a number of them
    rank   INTEGER NOT NULL,
    other  INTEGER NOT NULL,
    value  REAL NOT NULL,
    PRIMARY KEY(view, latent, how, rank)
) WITHOUT ROWID;

CREATE TABLE supports(      -- the columns of a sparse dictionary; a dense view has none
    view    INTEGER NOT NULL,
    latent  INTEGER NOT NULL,
    rows    BLOB NOT NULL,  -- uint32 [entries]
    weights BLOB NOT NULL,  -- float32 [entries]
    PRIMARY KEY(view, latent)
) WITHOUT ROWID;

CREATE TABLE matches(       -- the latent of another view of the same width whose column has the largest cosine
    view       INTEGER NOT NULL,
    latent     INTEGER NOT NULL,
    other_view INTEGER NOT NULL,
    other      INTEGER NOT NULL,
    cosine     REAL NOT NULL,
    PRIMARY KEY(view, other_view, latent)
) WITHOUT ROWID;

CREATE TABLE arrays(        -- one number a latent, for pages that show them all
    view INTEGER NOT NULL,
    name TEXT NOT NULL,     -- firings: int64; x, y: float32, places on the map, in [-1, 1]
    data BLOB NOT NULL,
    PRIMARY KEY(view, name)
) WITHOUT ROWID;

-- The words of a latent's top tokens and first contexts. rowid = view * 2^32 + latent. The index alone is kept.
CREATE VIRTUAL TABLE texts USING fts5(tokens, contexts, content='', prefix='2 3');
