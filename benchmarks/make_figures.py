"""Write the README's picture into figures/: one clip at one budget under LFTR and under the floor."""

import vtc_lab as vtc


def main() -> None:
    clip = vtc.read_clip("data/clips/sintel.mp4", frames=8)
    tokens = vtc.load_encoder("efficientnet-lite0").encode(clip)
    reductions = [vtc.reduce(tokens, method, ratio=4) for method in ("lftr", "uniform", "random")]
    for reduced in reductions:
        print(f"{reduced.method}: {reduced.ledger}, coverage {vtc.fidelity(tokens, reduced)['coverage']:.3f}")
    for path in vtc.save_figure(vtc.show(clip, *reductions), "what_gets_dropped").values():
        print("wrote", path.name)


if __name__ == "__main__":
    main()
