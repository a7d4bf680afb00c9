class MapImage:
    pass
