"""The program: one IR, the ATen-level `torch.fx.GraphModule`, with doors into it and checked passes over it."""
