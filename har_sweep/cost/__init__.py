"""What a model costs: static (parameters, disk, MACs), training and inference (time, memory, energy).

Everything here measures; nothing here knows in which order things are measured.
"""
