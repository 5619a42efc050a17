# %% [markdown]
# # Spelling names: an LSTM and a GRU against a table of bigrams
#
# Which character comes next in a name? Three models give a probability p(next | what came before), and are
# compared by the mean of -log p over the characters of names that none of them has seen, in nats:
#
# - guessing, all of 27 characters alike: log 27 = 3.30;
# - a **bigram** table, which knows the character before, and nothing else;
# - a **recurrent network**, whose state has seen the name from its beginning.
#
# The data are first names (`names.txt`, one a line) in the folder that `TINYDL_DATA` names. The script takes about
# 40 seconds on one core.

# %%
import time

import numpy as np

import tinydl as tl

data = tl.data.load("names")
print(data)

# %% [markdown]
# A name is a row: `x` holds a boundary and the characters so far, `y` at each step the character that comes next, and
# the boundary again at the end. Rows shorter than the longest name are filled up with 0.

# %%
vocabulary = tl.data.text.Vocabulary(data.class_names[1:])
print(data.x_train[0], "->", data.y_train[0])
print(repr(vocabulary.decode(data.x_train[0])), "->", repr(vocabulary.decode(data.y_train[0])))

# %% [markdown]
# ## Bigrams
# Count how often each character follows each other one, add one to every count so that nothing is impossible, and
# divide: the most likely table, but for that one.


# %%
def bigram_loss(x, y, x_test, y_test, symbols):
    counts = np.ones((symbols, symbols))
    np.add.at(counts, (x[y > 0], y[y > 0]), 1)
    counts[:, 0] = 0  # padding never comes next
    log_p = np.log(counts[:, 1:] / counts[:, 1:].sum(axis=1, keepdims=True))
    return -log_p[x_test[y_test > 0], y_test[y_test > 0] - 1].mean()


symbols = len(vocabulary)
test_set = data.x_test, data.y_test
bigram = bigram_loss(data.x_train, data.y_train, *test_set, symbols)
print(f"bigram  {bigram:.3f} nats a character")

# %% [markdown]
# ## Recurrent networks
# `Embedding` turns each character into a vector; the recurrent layer reads them one after another and gives its state
# at every step; `Dense` makes of it a score for each character that may come next. `mask_zero` tells the layers behind,
# and the loss, to leave the padding out.


# %%
def train(recurrent):
    model = tl.Sequential(
        [
            tl.layers.Embedding(symbols, 32, mask_zero=True),
            recurrent,
            tl.layers.Dense(symbols),
        ],
        seed=0,
    )
    model.build_model((None,))  # sequences of any length: new names begin with length 1
    model.compile(tl.optimizers.Adam(0.005), "sparse_categorical_crossentropy", ["accuracy"])
    begin = time.perf_counter()
    model.fit(
        data.x_train, data.y_train, epochs=3, batch_size=128, validation_data=test_set, verbose=2
    )
    print(f"{time.perf_counter() - begin:.0f} s")
    return model


lstm = train(tl.layers.LSTM(128, return_sequences=True))
gru = train(tl.layers.GRU(128, return_sequences=True))

# %%
losses = {"guessing": np.log(symbols - 1), "bigram": bigram}
for name, model in {"LSTM": lstm, "GRU": gru}.items():
    losses[name] = model.evaluate(*test_set, batch_size=256)["loss"]
for name, loss in losses.items():
    print(f"{name:9} {loss:.3f} nats a character, perplexity {np.exp(loss):.1f}")
assert max(losses["LSTM"], losses["GRU"]) < bigram

# %% [markdown]
# ## New names
# Draw the next character from what the network says, put it behind, and ask again. A name ends where the boundary is
# drawn.


# %%
def spell(model, count, rng, longest=15):
    names = np.full((count, 1), vocabulary.encode("\n")[0])
    for _ in range(longest):
        logits = model.predict(names, batch_size=count)[:, -1, 1:]  # (count, symbols - 1)
        # Adding Gumbel noise and taking the largest draws from softmax(logits).
        drawn = 1 + (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        names = np.hstack([names, drawn[:, None]])
    return [vocabulary.decode(row).split("\n")[1] for row in names]


print("LSTM:", ", ".join(spell(lstm, 12, np.random.default_rng(0))))
print("GRU: ", ", ".join(spell(gru, 12, np.random.default_rng(0))))
